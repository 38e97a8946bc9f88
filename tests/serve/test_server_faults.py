"""Clients that do what they should not, and files that are not what they seem: each costs itself only."""

from __future__ import annotations

import asyncio
import io
import math
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import soundfile
from toy_server import EXAMPLES, Serve

from sewkit.serve.app import create_app
from sewkit.serve.decoder import _decode as decode
from sewkit.serve.decoders import Decoders
from sewkit.serve.metrics import Metrics
from sewkit.serve.settings import Settings
from sewkit.serve.uploads import Upload

from soak import Soak, bad_uploads  # isort: skip, the folder is added by toy_server

ADDRESS = "/v1/audio/transcriptions"
SPOKEN, TEXT = EXAMPLES / "digits.flac", (EXAMPLES / "digits.txt").read_text().strip()


def post(url: str, data: bytes, name: str = "clip.flac", **fields: str) -> httpx.Response:
    return httpx.post(f"{url}{ADDRESS}", files={"file": (name, data)}, data=fields, timeout=60)


def expect_healthy(url: str) -> None:
    answer = post(url, SPOKEN.read_bytes())
    assert answer.status_code == 200
    assert answer.json()["text"] == TEXT


def connect(url: str) -> socket.socket:
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=20)


def head(url: str, length: int, boundary: str = "xx") -> bytes:
    return (
        f"POST {ADDRESS} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Length: {length}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n"
    ).encode()


SPOKEN_IN_GOOD = (EXAMPLES / "digits.txt").read_text().strip()
GOOD = (EXAMPLES / "digits.flac").read_bytes()
BAD = bad_uploads(GOOD, np.random.default_rng(0))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_upload_is_an_error_of_the_client(words_url, kind):
    answer = post(words_url, BAD[kind])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_audio"
    expect_healthy(words_url)


def test_no_message_names_a_path_of_the_server(words_url):
    for data in BAD.values():
        message = post(words_url, data).json()["error"]["message"]
        assert "/" not in message.replace("w/", ""), message


@pytest.mark.parametrize(
    "name", ["../../../tmp/x", "/etc/passwd", "a\x00b", "x" * 1000, "-rf", '"; rm -rf', "ü.wav\r\nX: y"]
)
def test_names_of_files_mean_nothing(words_url, name):
    answer = post(words_url, SPOKEN.read_bytes(), name)
    assert answer.status_code == 200
    assert answer.json()["text"] == TEXT
    assert "x" not in answer.headers


@pytest.mark.parametrize("model", ["../../etc/passwd", "/root", "x" * 300, "sew-words\n"])
def test_names_of_models_mean_nothing(words_url, model):
    assert post(words_url, SPOKEN.read_bytes(), model=model).status_code in (400, 404)
    assert httpx.get(f"{words_url}/v1/models/{'../' * 5}etc/passwd").status_code == 404


def test_uploads_over_the_limits_are_refused_before_they_are_stored(serve: Serve, words, tmp_path):
    url = serve(words, max_upload_bytes=500_000, max_audio_seconds=13.0, scratch=str(tmp_path))
    assert post(url, bytes(2_000_000)).status_code == 413  # by its length

    def in_pieces():
        yield b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(80):
            yield bytes(10_000)

    kind = {"content-type": "multipart/form-data; boundary=xx"}
    assert httpx.post(f"{url}{ADDRESS}", content=in_pieces(), headers=kind, timeout=60).status_code == 413
    tone = io.BytesIO()
    soundfile.write(tone, np.zeros(14 * 8000), 8000, format="FLAC")
    answer = post(url, tone.getvalue())
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "audio_too_long")
    assert post(url, b"x", prompt="y" * 100_000).status_code == 413
    expect_healthy(url)
    assert not list(tmp_path.iterdir()), "nothing is left of uploads"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no boundary at all",
        b"--xx\r\n\r\nno name\r\n--xx--\r\n",
        b'--xx\r\nContent-Disposition: form-data; name="model"\r\n\r\nsew-words\r\n--xx--\r\n',
        b'--xx\r\nContent-Disposition: form-data; name="file"\r\n\r\nno filename\r\n--xx--\r\n',
        b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nends here',
    ],
)
def test_broken_bodies_are_errors_of_the_client(words_url, body):
    kind = {"content-type": "multipart/form-data; boundary=xx"}
    answer = httpx.post(f"{words_url}{ADDRESS}", content=body, headers=kind, timeout=20)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_bodies_of_other_types_are_named(words_url):
    answer = httpx.post(f"{words_url}{ADDRESS}", json={"file": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_decoder_that_dies_costs_one_request_at_most(serve: Serve, words):
    others = decoders()
    url = serve(words, decode_workers=1)
    expect_healthy(url)
    (decoder,) = decoders() - others
    os.kill(decoder, signal.SIGKILL)
    expect_healthy(url)  # between two requests it costs none
    (decoder,) = decoders() - others
    os.kill(decoder, signal.SIGSTOP)  # so that it is at work when it dies
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, url, SPOKEN.read_bytes())
        time.sleep(0.5)
        os.kill(decoder, signal.SIGKILL)
        assert (answer.result().status_code, answer.result().json()["error"]["code"]) == (400, "invalid_audio")
    expect_healthy(url)
    assert 'sewkit_decoder_restarts_total{reason="crash"} 2.0' in httpx.get(f"{url}/metrics").text


def decoders() -> set[int]:
    """Processes of this one that decode."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return {pid for pid in children if b"sewkit.serve.decoder" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def test_decoding_that_takes_too_long_costs_one_request(serve: Serve, words):
    others = decoders()
    url = serve(words, decode_workers=1, decode_seconds=2.0)
    with suppress(AssertionError):  # on a busy machine, the first one may take that long
        expect_healthy(url)
    expect_healthy(url)
    (decoder,) = decoders() - others
    os.kill(decoder, signal.SIGSTOP)
    answer = post(url, SPOKEN.read_bytes())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_audio")
    assert "too long" in answer.json()["error"]["message"]
    assert decoder not in decoders()
    with suppress(AssertionError):
        expect_healthy(url)
    expect_healthy(url)


def test_a_slow_head_is_cut_off(serve: Serve, words):
    url = serve(words, header_seconds=0.5)
    with connect(url) as silent, connect(url) as slow:
        begun = time.monotonic()
        for byte in b"POST / HT":
            try:
                slow.sendall(bytes([byte]))
            except OSError:
                break
            time.sleep(0.1)
        assert slow.recv(100) == b""
        assert silent.recv(100) == b""
        assert time.monotonic() - begun < 5
    expect_healthy(url)


def test_a_slow_body_is_cut_off(serve: Serve, words):
    url = serve(words, idle_seconds=0.3)
    with connect(url) as stalled, connect(url) as trickling:
        stalled.sendall(head(url, 1000) + b"--xx\r\n")
        trickling.sendall(head(url, 1000))
        begun = time.monotonic()
        answer = stalled.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408")
        while time.monotonic() - begun < 10:
            try:
                trickling.sendall(b"-")
            except OSError:
                break
            time.sleep(0.1)
        assert time.monotonic() - begun < 8
    expect_healthy(url)


def test_clients_that_are_killed_leave_nothing_behind(serve: Serve, words, tmp_path):
    url = serve(words, scratch=str(tmp_path))
    audio = (EXAMPLES / "digits.flac").read_bytes()
    part = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + audio
    for cut in (10, 5000, len(part) - 1000):  # in the middle of an upload
        with connect(url) as client:
            client.sendall(head(url, len(part) + 10) + part[:cut])
    for _ in range(5):  # while it is transcribed
        body = part + b"\r\n--xx--\r\n"
        with connect(url) as client:
            client.sendall(head(url, len(body)) + body)
            time.sleep(0.05)
    expect_healthy(url)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (list(tmp_path.iterdir()) or requests_on_their_way(url)):
        time.sleep(0.05)
    assert not list(tmp_path.iterdir())
    assert not requests_on_their_way(url)


def test_a_soak_in_short_form_leaves_the_server_well(words_url):
    """Everything at once: bad uploads, killed and slow clients, and good requests that get their words."""
    soak = Soak(words_url, GOOD, SPOKEN_IN_GOOD, time.monotonic() + 3, most_bad=40)

    async def run():
        async with httpx.AsyncClient(timeout=60) as http:
            clients = [soak.send_bad(http, seed, pause=0.1) for seed in range(4)]
            await asyncio.gather(
                *clients, soak.send_good(http), soak.be_killed(1), soak.be_slow(True), soak.be_slow(False)
            )

    asyncio.run(run())
    assert set(soak.bad) == {"400"}
    assert soak.bad.total() >= 40
    assert set(soak.good_answers) == {"right"}
    assert soak.killed > 3
    expect_healthy(words_url)


def requests_on_their_way(url: str) -> int:
    return httpx.get(f"{url}/v1/state").json()["queue"]["requests"]


def test_a_client_that_leaves_before_the_first_event_gives_its_place_back(words):
    """It is gone when the first words are there, and before the answer has begun."""
    request = httpx.Request("POST", f"http://x{ADDRESS}", files={"file": SPOKEN.read_bytes()}, data={"stream": "true"})
    headers = [(name.lower(), value) for name, value in request.headers.raw]
    scope = {"type": "http", "method": "POST", "path": ADDRESS, "headers": headers, "client": ("1.2.3.4", 5)}
    body = {"type": "http.request", "body": request.read()}

    async def ask(app: Any, waits_before_it_leaves: float) -> int:
        """The status of the answer, 0 where there was none."""
        messages, statuses, num_waits = [body], [0], 0

        async def receive() -> dict[str, Any]:
            nonlocal num_waits
            if messages:
                return messages.pop()
            num_waits += 1
            if num_waits <= waits_before_it_leaves:
                await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            await asyncio.sleep(0)
            statuses.append(message.get("status", statuses[-1]))

        await app({"query_string": b"", **scope}, receive, send)
        return statuses[-1]

    async def script() -> list[int]:
        app = create_app(Settings(calibration_runs=1, max_per_client=1), words)
        async with app.router.lifespan_context(app):
            return [await ask(app, 2), await ask(app, math.inf)]  # it is waited for while decoding and transcribing

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, script()).result() == [0, 200]


def test_a_request_that_is_cancelled_again_and_again_leaves_its_decoder_to_others(tmp_path):
    upload = tmp_path / "upload"
    upload.write_bytes(SPOKEN.read_bytes())

    async def script() -> int:
        decoders = Decoders(Settings(decode_workers=1), Metrics())
        work = asyncio.create_task(decoders.decode(upload))
        while not decoders._all:
            await asyncio.sleep(0.01)
        while not work.done():
            work.cancel()
            await asyncio.sleep(0)
        samples = await asyncio.wait_for(decoders.decode(upload), 60)
        await decoders.close()
        return len(samples)

    assert asyncio.run(script()) > 0


def test_a_full_disk_is_the_server_s_affair():
    full = decode(SPOKEN, Path("/dev/full"), 100.0)
    assert full == {"error": "the server has no room for its sound; try again later", "code": "no_room"}


def test_a_file_that_is_taken_in_parts_is_stored_whole(tmp_path):
    class Reluctant(io.FileIO):
        def write(self, data):
            return super().write(bytes(data)[:1000])

    sound = SPOKEN.read_bytes()
    request = httpx.Request("POST", "http://x", files={"file": sound})
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()

    async def store() -> None:
        with Reluctant(tmp_path / "upload", "w") as file:
            upload = Upload(boundary, file, 10**9)
            await upload.feed(request.read())
            await upload.flush()

    asyncio.run(store())
    assert (tmp_path / "upload").read_bytes() == sound


def test_a_client_may_have_so_many_requests_and_no_more(serve: Serve, words):
    url = serve(words, max_per_client=1, idle_seconds=5.0)
    with connect(url) as first:
        first.sendall(head(url, 1000) + b"--xx\r\n")
        time.sleep(0.3)
        answer = post(url, SPOKEN.read_bytes())
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "per_client")
        assert int(answer.headers["retry-after"]) >= 1
    time.sleep(0.3)
    expect_healthy(url)


def test_other_origins_may_not_call_unless_they_are_named(serve: Serve, words, words_url):
    origin = {"origin": "https://elsewhere.example"}
    assert "access-control-allow-origin" not in httpx.get(f"{words_url}/v1/models", headers=origin).headers
    url = serve(words, cors_origins=("https://elsewhere.example",))
    assert httpx.get(f"{url}/v1/models", headers=origin).headers["access-control-allow-origin"] == origin["origin"]


def test_request_ids_are_kept_if_they_are_harmless(words_url):
    def given(value: str) -> str:
        return httpx.get(f"{words_url}/health", headers={"x-request-id": value}).headers["x-request-id"]

    assert given("abc-123") == "abc-123"
    assert given('"} evil {"') != '"} evil {"'
    assert given("x" * 100) != "x" * 100

"""Live transcription over WebSocket, with clients that nobody here wrote: `websockets` and `openai`."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import soundfile
import torch
from live_server import HeldRuntime, LiveServer, PlainHearing, live_server
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import sewkit
from sewkit import Recognizer, Segmentation
from sewkit.audio import load_audio
from sewkit.checkpoint import LoadedModel
from sewkit.runtime.pytorch import TorchRuntime
from sewkit.serve.live import LiveLimits
from sewkit.testing import synthetic_speech, toy_model
from sewkit.text import Alphabet

EXAMPLES = Path(__file__).parents[2] / "examples"
COMPLETED = "conversation.item.input_audio_transcription.completed"
DELTA = "conversation.item.input_audio_transcription.delta"


def int16(samples: np.ndarray) -> np.ndarray:
    return (samples * 32767).astype("<i2")


@pytest.fixture(scope="module")
def bundled() -> Recognizer:
    return sewkit.load()


@pytest.fixture(scope="module")
def commands() -> np.ndarray:
    return int16(load_audio(EXAMPLES / "commands.flac"))


@pytest.fixture(scope="module")
def stochastic() -> Recognizer:
    model = toy_model("stochastic-sew")
    return Recognizer(LoadedModel(model, Alphabet.english()), TorchRuntime(model, torch.device("cpu")), "stochastic")


@pytest.fixture(scope="module")
def server(bundled: Recognizer) -> Iterator[LiveServer]:
    with live_server(PlainHearing(bundled)) as server:
        yield server


@pytest.fixture(scope="module")
def toy_server(toy: Recognizer) -> Iterator[LiveServer]:
    with live_server(PlainHearing(toy)) as server:
        yield server


def plain(server: LiveServer, query: str = "", **options) -> ClientConnection:
    return connect(f"ws://{server.address}/v1/stream{query}", **options)


def realtime(server: LiveServer, **options) -> ClientConnection:
    return connect(f"ws://{server.address}/v1/realtime?intent=transcription", **options)


def tell(client: ClientConnection, kind: str, **fields) -> None:
    client.send(json.dumps({"type": kind, **fields}))


def append(client: ClientConnection, samples: np.ndarray) -> None:
    tell(client, "input_audio_buffer.append", audio=base64.b64encode(samples.tobytes()).decode())


def until(client: ClientConnection, kind: str) -> list[dict]:
    """Events up to the next of a kind."""
    events = [json.loads(client.recv(timeout=20))]
    while events[-1]["type"] != kind:
        events.append(json.loads(client.recv(timeout=20)))
    return events


def of(events: list[dict], kind: str) -> list[dict]:
    return [event for event in events if event["type"] == kind]


def heard_of(asr: Recognizer, samples: np.ndarray, rate: int = 16_000) -> sewkit.Transcript:
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="wav")
    return asr.transcribe(wav.getvalue(), segmentation=Segmentation())


# The plain form


@pytest.mark.parametrize("num_bytes", [999, 64_000, 10**6])
def test_plain_finals_are_those_of_the_recording(
    server: LiveServer, bundled: Recognizer, commands: np.ndarray, num_bytes: int
) -> None:
    data = commands.tobytes()
    with plain(server) as client:
        assert until(client, "ready")[0]["sample_rate"] == 16_000
        for first in range(0, len(data), num_bytes):
            client.send(data[first : first + num_bytes])
        tell(client, "finish")
        events = until(client, "done")
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1000
    transcript = heard_of(bundled, commands)
    finals = of(events, "final")
    assert [word for final in finals for word in final["words"]] == [word.to_dict() for word in transcript.words]
    assert [final["text"] for final in finals if final["words"]] == [segment.text for segment in transcript.segments]
    assert {final["compute"] for final in finals} == {str(transcript.compute)}
    assert of(events, "partial")
    assert events[-1]["seconds"] == pytest.approx(len(commands) / 16_000, abs=1e-3)


def test_words_come_while_the_sound_does(server: LiveServer, commands: np.ndarray) -> None:
    with plain(server) as client:
        client.send(commands[:32_000].tobytes())
        assert until(client, "partial")[-1]["words"]


def test_a_model_that_bends_runs_at_the_point_that_can_be_afforded_or_is_asked_for(stochastic: Recognizer) -> None:
    hearing = PlainHearing(stochastic, sewkit.Compute(4))
    samples = int16(synthetic_speech(48_000))
    with live_server(hearing) as server, realtime(server) as client:

        def point() -> str:
            append(client, samples)
            tell(client, "input_audio_buffer.commit")
            return until(client, COMPLETED)[-1]["compute"]

        assert point() == "squeeze=4"
        hearing.affordable = sewkit.Compute(2)
        assert point() == "squeeze=2"
        tell(client, "session.update", session={"compute": "squeeze=3,query_pool=1,kv_pool=2"})
        assert point() == "squeeze=3,kv_pool=2"
        tell(client, "session.update", session={"compute": None})
        assert point() == "squeeze=2"


def test_the_point_of_a_plain_session_may_change_on_the_way(stochastic: Recognizer) -> None:
    with live_server(PlainHearing(stochastic)) as server, plain(server, "?compute=squeeze=4") as client:
        client.send(int16(synthetic_speech(48_000)).tobytes())
        tell(client, "compute", compute="squeeze=9")
        assert "squeeze=9" in until(client, "error")[-1]["message"]
        tell(client, "compute", compute="squeeze=2,query_pool=1,kv_pool=1")
        assert until(client, "compute")[-1]["compute"] == "squeeze=2"
        tell(client, "finish")
        assert {final["compute"] for final in of(until(client, "done"), "final")} == {"squeeze=2"}


@pytest.mark.parametrize("query", ["?compute=squeeze=7", "?sample_rate=12", "?sample_rate=abc"])
def test_a_session_that_cannot_be_is_refused_in_one_line(toy_server: LiveServer, query: str) -> None:
    with plain(toy_server, query) as client:
        (event,) = until(client, "error")
        assert event["message"].count("\n") == 0
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1008


# OpenAI's form


def test_the_openai_client_talks_live(server: LiveServer, bundled: Recognizer, commands: np.ndarray) -> None:
    rate = 24_000
    sound = np.repeat(commands, 3)[::2]  # 24 kHz

    async def converse() -> list:
        client = openai.AsyncOpenAI(api_key="none", base_url=f"http://{server.address}/v1")
        events = []
        async with client.realtime.connect(model="sew-words", extra_query={"intent": "transcription"}) as connection:
            events.append(await connection.recv())
            await connection.session.update(
                session={"type": "transcription", "audio": {"input": {"format": {"type": "audio/pcm", "rate": rate}}}}
            )
            for first in range(0, len(sound), 4801):
                audio = base64.b64encode(sound[first : first + 4801].tobytes()).decode()
                await connection.input_audio_buffer.append(audio=audio)
            await connection.input_audio_buffer.commit()
            last_end = len(sound) / rate
            async for event in connection:
                events.append(event)
                if event.type == COMPLETED and event.words and event.words[-1]["end"] > last_end - 1.5:
                    break
        await client.close()
        return events

    events = asyncio.run(converse())
    assert [event.type for event in events[:2]] == ["session.created", "session.updated"]
    transcript = heard_of(bundled, sound, rate)
    completed = [event for event in events if event.type == COMPLETED]
    assert [event.transcript for event in completed] == [segment.text for segment in transcript.segments]
    assert "STOP" in completed[0].transcript
    assert completed[0].usage.seconds > 1
    for event in completed:
        kinds = [other.type for other in events if getattr(other, "item_id", None) == event.item_id]
        assert kinds[0] == "input_audio_buffer.speech_started"
        assert kinds[-3:] == ["input_audio_buffer.speech_stopped", "input_audio_buffer.committed", COMPLETED]
        assert DELTA in kinds
    previous = [event.previous_item_id for event in events if event.type == "input_audio_buffer.committed"]
    assert previous == [None, *(event.item_id for event in completed[:-1])]


def test_the_beta_dialect_is_spoken_too(server: LiveServer, commands: np.ndarray) -> None:
    with realtime(server, additional_headers={"OpenAI-Beta": "realtime=v1"}) as client:
        assert json.loads(client.recv())["type"] == "transcription_session.created"
        fields = {"input_audio_format": "pcm16", "turn_detection": {"type": "server_vad", "silence_duration_ms": 400}}
        tell(client, "transcription_session.update", session=fields)
        session = until(client, "transcription_session.updated")[-1]["session"]
        assert session["input_audio_format"] == "pcm16"
        assert session["turn_detection"]["silence_duration_ms"] == 400
        append(client, np.repeat(commands, 3)[::2])
        tell(client, "input_audio_buffer.commit")
        events = until(client, COMPLETED)
        assert "conversation.item.created" in [event["type"] for event in events]


def test_without_turn_detection_an_item_is_what_was_committed(
    server: LiveServer, bundled: Recognizer, commands: np.ndarray
) -> None:
    transcript = heard_of(bundled, commands)
    with realtime(server) as client:
        sound = {"format": {"type": "audio/pcm", "rate": 16_000}, "turn_detection": None}
        include = ["item.input_audio_transcription.logprobs"]
        tell(client, "session.update", session={"audio": {"input": sound}, "include": include})
        until(client, "session.updated")
        starts = []
        for _ in range(2):
            append(client, commands)
            tell(client, "input_audio_buffer.commit")
            events = until(client, COMPLETED)
            kinds = [event["type"] for event in events]
            assert "input_audio_buffer.speech_started" not in kinds
            assert kinds.count("input_audio_buffer.committed") == kinds.count(COMPLETED) == 1
            assert events[-1]["transcript"] == transcript.text
            assert "".join(event["delta"] for event in of(events, DELTA)) == transcript.text
            assert [entry["token"] for entry in events[-1]["logprobs"]] == transcript.text.split()
            assert all(entry["logprob"] <= 0 for entry in events[-1]["logprobs"])
            starts.append(events[-1]["words"][0]["start"])
        assert starts[1] == pytest.approx(starts[0] + len(commands) / 16_000, abs=1e-3)


def test_a_commit_is_answered_even_where_nobody_speaks(server: LiveServer) -> None:
    with realtime(server) as client:
        append(client, np.zeros(24_000, np.int16))
        tell(client, "input_audio_buffer.commit")
        assert until(client, COMPLETED)[-1]["transcript"] == ""
        tell(client, "input_audio_buffer.commit", event_id="mine")
        error = until(client, "error")[-1]["error"]
        assert (error["code"], error["event_id"]) == ("input_audio_buffer_commit_empty", "mine")


def test_sound_that_is_cleared_is_forgotten(server: LiveServer, commands: np.ndarray) -> None:
    with realtime(server) as client:
        append(client, np.repeat(commands[:32_000], 3)[::2])
        tell(client, "input_audio_buffer.clear")
        assert not of(until(client, "input_audio_buffer.cleared"), COMPLETED)
        append(client, np.zeros(24_000, np.int16))
        tell(client, "input_audio_buffer.commit")
        events = until(client, COMPLETED)
        assert [event["transcript"] for event in of(events, COMPLETED)] == [""]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no json", "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("[1]", "invalid_json"),
        (b"\0\1", "invalid_json"),
        ('{"type": 3}', "invalid_value"),
        ('{"type": "response.create"}', "invalid_event_type"),
        ('{"type": "input_audio_buffer.append", "audio": "?"}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": {}}', "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "\u00e9"}', "invalid_value"),
        (r'{"type": "response.create", "event_id": "half of a pair: \ud83d"}', "invalid_event_type"),
        ('{"type": "session.update"}', "missing_required_parameter"),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": 7}}}}', "invalid_value"),
        ('{"type": "session.update", "session": {"audio": 7, "turn_detection": {"type": "?"}}}', "invalid_value"),
        ('{"type": "session.update", "session": {"audio": {"input": {"format": {"rate": 1}}}}}', "invalid_value"),
        ('{"type": "session.update", "session": {"compute": "squeeze=77"}}', "invalid_value"),
    ],
)
def test_a_bad_message_is_one_error_and_the_session_goes_on(
    toy_server: LiveServer, message: str | bytes, code: str
) -> None:
    with realtime(toy_server) as client:
        until(client, "session.created")
        client.send(message)
        error = until(client, "error")[-1]["error"]
        assert error["code"] == code
        assert error["message"]
        append(client, int16(synthetic_speech(48_000)))
        tell(client, "input_audio_buffer.commit")
        until(client, COMPLETED)


def test_ten_thousand_random_messages_leave_the_server_well(toy_server: LiveServer, noise: np.random.Generator) -> None:
    with plain(toy_server) as client:
        until(client, "ready")
        for _ in range(100):
            for _ in range(100):
                client.send(noise.bytes(int(noise.integers(0, 40))).decode("latin-1"))
            for _ in range(100):
                assert json.loads(client.recv())["type"] == "error"
        client.send(noise.bytes(50_001))
        tell(client, "finish")
        until(client, "done")


# Limits and faults


def test_a_session_that_falls_silent_gets_its_words_and_is_closed(toy: Recognizer) -> None:
    limits = LiveLimits(idle_seconds=0.5)
    with live_server(PlainHearing(toy), limits) as server, plain(server) as client:
        client.send(int16(synthetic_speech(24_000)).tobytes())
        events = until(client, "error")
        assert of(events, "final")
        assert events[-1]["code"] == "idle_timeout"
        with pytest.raises(ConnectionClosed):
            client.recv()
        assert client.close_code == 1008


def test_a_session_ends_after_its_time(toy: Recognizer) -> None:
    limits = LiveLimits(max_seconds=2.0)
    with live_server(PlainHearing(toy), limits) as server, plain(server) as client:
        client.send(int16(synthetic_speech(48_000)).tobytes())
        events = until(client, "error")
        assert of(events, "final")
        assert events[-1]["code"] == "session_too_long"


def test_a_client_has_as_many_sessions_as_one_may(toy: Recognizer) -> None:
    with live_server(PlainHearing(toy), LiveLimits(max_per_client=1)) as server, plain(server) as first:
        until(first, "ready")
        with plain(server) as second:
            assert until(second, "error")[-1]["code"] == "per_client"


def test_one_session_too_many_is_told_and_room_comes_again(toy: Recognizer) -> None:
    with live_server(PlainHearing(toy), LiveLimits(max_sessions=1)) as server:
        with plain(server) as first:
            until(first, "ready")
            with plain(server) as second:
                assert until(second, "error")[-1]["code"] == "session_limit"
                with pytest.raises(ConnectionClosed):
                    second.recv()
                assert second.close_code == 1013
        server.wait_until(lambda: len(server.sessions) == 0)
        with plain(server) as third:
            until(third, "ready")


def sent_until_stuck(client: ClientConnection, block: bytes) -> int:
    """Bytes that a client gets rid of before it can send no more."""
    for count in range(1000):
        try:
            client.send(block)
        except (TimeoutError, ConnectionClosed):
            return count * len(block)
    return 1000 * len(block)


def test_a_client_that_sends_too_fast_is_slowed_down_and_others_are_served(toy: Recognizer) -> None:
    """While the model is held, what the server has taken stays below what the sockets' buffers hold."""
    held = HeldRuntime(toy.runtime)
    asr = Recognizer(toy.loaded, held, "held")
    block = bytes(64_000)  # two seconds
    with live_server(PlainHearing(asr)) as server:
        with plain(server, close_timeout=0.1) as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            client.socket.settimeout(1.0)
            assert sent_until_stuck(client, block) < 16e6
            began = time.monotonic()
            with socket.create_connection(server.address.split(":")) as other:
                other.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                assert b"200 OK" in other.recv(100)
            assert time.monotonic() - began < 1.0
            held.is_free.set()
        server.wait_until(lambda: len(server.sessions) == 0)


def test_a_client_that_takes_no_events_is_let_go(toy: Recognizer) -> None:
    with live_server(PlainHearing(toy), LiveLimits(send_seconds=0.3)) as server:
        host, port = server.address.split(":")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect((host, int(port)))
            client.sendall(
                b"GET /v1/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            server.wait_until(lambda: len(server.sessions) == 1)
            client.settimeout(0.5)
            with contextlib.suppress(OSError):  # stuck, or closed by the server
                for _ in range(1000):
                    client.sendall(b"\x81\x80\0\0\0\0" * 10_000)  # empty texts, each worth an error event
            server.wait_until(lambda: len(server.sessions) == 0, 60.0)
        with plain(server) as client:
            until(client, "ready")


def test_a_killed_client_leaves_nothing_behind(toy: Recognizer) -> None:
    with live_server(PlainHearing(toy)) as server:
        for _ in range(5):
            with plain(server) as client:
                client.send(int16(synthetic_speech(48_000)).tobytes())
                client.socket.shutdown(socket.SHUT_RDWR)  # no goodbye
        server.wait_until(lambda: len(server.sessions) == 0)


def test_a_model_that_fails_ends_its_session_only(toy: Recognizer, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        config = toy.config

        def logits(self, waveforms, compute=None):
            raise RuntimeError("out of memory")

    with live_server(PlainHearing(Recognizer(toy.loaded, Broken(), "broken"))) as server:
        for _ in range(2):
            with plain(server) as client:
                client.send(bytes(64_000))
                event = until(client, "error")[-1]
                assert event["code"] == "server_error"
                assert "memory" not in event["message"]
    assert "a live session failed" in caplog.text


def test_a_server_that_goes_down_lets_sessions_have_their_words(toy: Recognizer) -> None:
    with live_server(PlainHearing(toy)) as server:
        with plain(server) as client:
            client.send(int16(synthetic_speech(24_000)).tobytes())
            until(client, "partial")
            server.in_loop(server.sessions.drain)
            events = until(client, "error")
            assert of(events, "final")
            assert events[-1]["code"] == "server_shutdown"
        with plain(server) as client:
            assert until(client, "error")[-1]["code"] == "server_shutdown"


# Who may connect


def test_pages_of_other_origins_may_not_connect(toy: Recognizer) -> None:
    with live_server(PlainHearing(toy), cors_origins=("https://friend.example",)) as server:
        with pytest.raises(InvalidStatus) as refused:
            plain(server, origin="https://evil.example")
        assert refused.value.response.status_code == 403
        for origin in (f"http://{server.address}", "https://friend.example", None):
            with plain(server, origin=origin) as client:
                until(client, "ready")


def test_a_key_is_asked_for_where_there_is_one(toy: Recognizer) -> None:
    with live_server(PlainHearing(toy), api_key="secret") as server:
        for options in ({}, {"additional_headers": {"Authorization": "Bearer other"}}):
            with pytest.raises(InvalidStatus) as refused:
                plain(server, **options)
            assert refused.value.response.status_code == 401
        with realtime(server, additional_headers={"Authorization": "Bearer secret"}) as client:
            until(client, "session.created")
        with plain(server, subprotocols=["realtime", "openai-insecure-api-key.secret"]) as client:
            assert client.subprotocol == "realtime"
            until(client, "ready")

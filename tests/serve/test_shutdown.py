"""The command itself, as a process of its own: it serves, and a signal ends it with nothing lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from toy_server import CLIPS, EXAMPLES
from typer.testing import CliRunner

from sewkit.cli.main import app
from sewkit.errors import UserError


@contextmanager
def command(log: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A running `sewkit serve` and its address, which its log tells."""
    call = [sys.executable, "-m", "sewkit", "serve", "--port", "0", "--calibration-runs", "1", "--threads", "1"]
    with log.open("wb") as stream:
        process = subprocess.Popen([*call, *arguments], stderr=stream, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + 120
        while (url := address(log)) is None and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert url is not None, log.read_text()
        yield process, url
    finally:
        process.kill()
        process.wait()


def lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def address(log: Path) -> str | None:
    told = [str(line["event"]) for line in lines(log) if "running on" in str(line["event"])]
    return told[0].split()[3] if told else None


def post(url: str, file: Path) -> httpx.Response:
    files = {"file": (file.name, file.read_bytes())}
    return httpx.post(f"{url}/v1/audio/transcriptions", files=files, timeout=120)


def test_sigterm_under_load_loses_no_accepted_request_and_ends_with_status_0(tmp_path):
    log = tmp_path / "log"
    with command(log, "--max-wait-ms", "600000") as (process, url), ThreadPoolExecutor(16) as pool:
        post(url, CLIPS / "go_422d3197_nohash_0.opus")
        answers = [pool.submit(post, url, EXAMPLES / "digits.flac") for _ in range(64)]
        while (accepted := httpx.get(f"{url}/v1/state").json()["queue"]["requests"]) < 4:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        outcomes = [answer.result().status_code if answer.exception() is None else None for answer in answers]
        assert process.wait(60) == 0
    finished = [line for line in lines(log) if line.get("path") == "/v1/audio/transcriptions"]
    assert outcomes.count(200) >= accepted
    assert [line["status"] for line in finished] == [200] * len(finished), "what was taken in was answered"
    assert len(finished) == 1 + outcomes.count(200)


@pytest.mark.slow
def test_workers_share_the_address_and_join_their_metrics(tmp_path):
    log = tmp_path / "log"
    key = tmp_path / "key"
    key.write_text("secret\n")
    with command(log, "--workers", "2", "--api-key-file", str(key)) as (process, url):
        deadline = time.monotonic() + 120
        while str(lines(log)).count("Application startup complete") < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: httpx.get(f"{url}/v1/models").status_code, range(20)))
        assert statuses == [401] * 20
        told = httpx.get(f"{url}/metrics").text
        assert 'sewkit_requests_total{path="/v1/models",status="401"} 20.0' in told
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_workers_that_cannot_start_end_the_server_with_status_1_and_a_line(tmp_path):
    log = tmp_path / "log"
    call = [sys.executable, "-m", "sewkit", "serve", "no-such-model", "--port", "0", "--workers", "2"]
    with log.open("wb") as stream:
        assert subprocess.run(call, stderr=stream, timeout=300, check=False).returncode == 1
    assert "a worker cannot start: no model named 'no-such-model'" in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compute", "squeeze=9"], "squeeze=9"),
        (["no-such-model"], "no-such-model"),
        (["--api-key-file", "/nowhere"], "--api-key-file"),
        (["--scratch", __file__], "expected a folder that can be written, found a file"),
        (["--scratch", __file__, "--workers", "2"], "expected a folder that can be written, found a file"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments, message):
    outcome = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
    assert isinstance(outcome.exception, UserError)
    assert message in str(outcome.exception)


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = CliRunner().invoke(app, ["serve", "no-such-model", "--port", port])
    assert isinstance(outcome.exception, UserError)
    assert f"--port {port}: expected an address of this machine and a free port" in str(outcome.exception)

"""The server as a Ray Serve deployment of two replicas, on this machine, started as users start it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from sewkit.serve.cluster import ClusterSettings
from sewkit.serve.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # ray has many deprecations of its own


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of two replicas that `serve run`, Ray's own command, has started."""
    folder = tmp_path_factory.mktemp("cluster")
    port = free_port()
    configuration = {
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "sewkit",
                "import_path": "sewkit.serve.cluster:app",
                "args": {"replicas": 2, "cpus": 0.5, "calibration_runs": 1, "threads": 1},
            }
        ],
    }
    (folder / "serve.yaml").write_text(json.dumps(configuration))
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    # A cluster of its own: other tests may have one on this machine.
    command = [str(Path(sys.executable).with_name("serve")), "run", "--address", "local", str(folder / "serve.yaml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/ready", process, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).is_success:
                return
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def test_a_replica_is_told_what_a_server_is() -> None:
    settings = ClusterSettings(model="toy", target_p95_ms=300, api_key="secret", replicas="auto", gpus=1)
    assert settings.of_a_replica == Settings(model="toy", target_p95_ms=300, api_key="secret")


def test_two_replicas_answer_over_http_and_websocket(address: str) -> None:
    text = (EXAMPLES / "commands.txt").read_text().strip()
    with httpx.Client(base_url=f"http://{address}", timeout=30) as client:
        for _ in range(6):
            with (EXAMPLES / "commands.flac").open("rb") as file:
                answer = client.post("/v1/audio/transcriptions", files={"file": file})
            assert answer.status_code == 200
            assert answer.json()["text"] == text
            assert answer.headers["x-sewkit-compute"]
    with connect(f"ws://{address}/v1/stream") as live:
        live.send(bytes(64_000))
        live.send('{"type": "finish"}')
        assert '"done"' in list(live)[-1]

"""The server as a Ray Serve deployment of two replicas, on this machine."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from sewkit.serve.cluster import ClusterSettings, app
from sewkit.serve.settings import Settings

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # ray has many deprecations of its own


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import ray
    from ray import serve

    cache = tmp_path_factory.mktemp("cache")
    environment = {"env_vars": {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    port = free_port()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app(ClusterSettings(replicas=2, cpus=0.5, calibration_runs=1, threads=1)), name="sewkit")
        yield f"127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


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

"""The whole server with its page on the loopback, in a thread, and a browser with a microphone that plays a file."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import uvicorn
from anyio.from_thread import start_blocking_portal

import sewkit
from sewkit import Compute, Recognizer
from sewkit.audio import SAMPLE_RATE
from sewkit.compute import REFERENCE_SAMPLES, macs, operating_points
from sewkit.config import Stochastic
from sewkit.curve import Curve, MeasuredPoint
from sewkit.model import build_model
from sewkit.serve.app import create_app
from sewkit.serve.live import WEBSOCKET_OPTIONS
from sewkit.serve.settings import Settings

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
SECONDS_OF_A_SECOND = {1: 0.12, 2: 0.07, 3: 0.03, 4: 0.0}
"""What a toy that bends takes longer, by its squeeze factor."""


def chromium() -> str | None:
    """The browser, where one is installed."""
    return next(filter(None, map(shutil.which, CHROMIUMS)), None)


class BendingRuntime:
    """The bundled model, whatever the operating point; only its time depends on that."""

    def __init__(self, asr: Recognizer):
        self.config = asr.config.replace(**Stochastic().model_dump())
        self._runtime = asr.runtime

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        assert compute is not None
        time.sleep(SECONDS_OF_A_SECOND[compute.squeeze] * sum(map(len, waveforms)) / SAMPLE_RATE)
        return self._runtime.logits(waveforms)


def bending() -> Recognizer:
    """A recognizer with the words of the bundled model and the grid of a stochastic one, with made-up error rates."""
    asr = sewkit.load()
    runtime = BendingRuntime(asr)
    loaded = replace(asr.loaded, model=build_model(runtime.config).eval(), curve=_curve(runtime.config))
    return Recognizer(loaded, runtime, "sew-words")


def _curve(config: sewkit.ModelConfig) -> Curve:
    cost = {point: sum(macs(config, REFERENCE_SAMPLES, point).values()) for point in operating_points(config)}
    dearest = max(cost.values())
    points = []
    for point, value in cost.items():
        rate = 0.142 + 0.05 * (dearest / value - 1) + 0.006 * (point.query_pool != 1) + 0.004 * (point.kv_pool != 1)
        rates = {"wer": rate, "wer_low": rate - 0.012, "wer_high": rate + 0.012}
        rates |= {"cer": rate / 2, "cer_low": rate / 2, "cer_high": rate / 2}
        times = {"seconds_median": value / dearest, "seconds_p95": value / dearest, "real_time_factor": 0.1}
        points.append(MeasuredPoint(point=str(point), macs_per_second=value, peak_memory_mib=None, **rates, **times))
    about = {"num_clips": 1, "num_missing": 0, "audio_seconds": 1.0, "num_words": 1, "normalizer": "none"}
    where = {"interval": "none", "device": "cpu", "dtype": "float32", "environment": {}, "data": {}}
    return Curve(model="toy", points=tuple(points), **about, **where)


@contextmanager
def page_server(asr: Recognizer, **settings: object) -> Iterator[str]:
    """Its address."""
    app = create_app(Settings(calibration_runs=1, **settings), asr)
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2, **WEBSOCKET_OPTIONS)
    )
    with start_blocking_portal() as portal:
        serving = portal.start_task_soon(server.serve)
        end = time.monotonic() + 60
        while not server.started:
            assert time.monotonic() < end
            assert not serving.done()
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
        finally:
            server.should_exit = True
            serving.result(30)


def flags(wav: Path) -> list[str]:
    """For a browser whose microphone plays a file over and over, and asks nobody."""
    return [
        "--no-sandbox",
        "--disable-gpu",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={wav}%noloop",
    ]

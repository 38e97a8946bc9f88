"""What Prometheus is told. With several workers the figures of all are joined, see `render`.

sewkit_requests_total{path,status}, sewkit_request_seconds{path}: HTTP, from the head of a request to its end.
sewkit_refused_total{reason}: the code of the answer, such as busy or invalid_audio; bad_request where it has none.
sewkit_waited_seconds: of stretches of sound, for the model. sewkit_batch_seconds{compute}, sewkit_batch_items: batches.
sewkit_audio_seconds_total{compute}: sound heard at each operating point, with padding.
sewkit_queue_requests, sewkit_queue_audio_seconds, sewkit_busy, sewkit_level, sewkit_levels: now; busy is the share of
the model's time that the load would take at the dearest point, level the governor's rung, from 0, of so many levels.
sewkit_live_sessions: WebSockets with live sound.
sewkit_decoder_restarts_total{reason}: decoders that were replaced: crash, time.
"""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own variable: the folder in which workers keep their figures."""


class Metrics:
    """The figures of one server process."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, registry=registry, multiprocess_mode="livesum")

        self.requests = Counter("sewkit_requests", "HTTP requests.", ("path", "status"), registry=registry)
        self.request_seconds = Histogram(
            "sewkit_request_seconds", "From the head of a request to its end.", ("path",), registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        self.refused = Counter("sewkit_refused", "Requests that were refused.", ("reason",), registry=registry)
        self.waited = Histogram("sewkit_waited_seconds", "Sound, for the model.", registry=registry, buckets=SECONDS)
        self.batch_seconds = Histogram(
            "sewkit_batch_seconds", "Batches.", ("compute",), registry=registry, buckets=SECONDS
        )
        self.batch_items = Histogram(
            "sewkit_batch_items", "In a batch.", registry=registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        self.audio = Counter("sewkit_audio_seconds", "Sound heard, with padding.", ("compute",), registry=registry)
        self.decoder_restarts = Counter(
            "sewkit_decoder_restarts", "Decoders that were replaced.", ("reason",), registry=registry
        )
        self.queue_requests = gauge("sewkit_queue_requests", "Recordings on their way.")
        self.queue_audio = gauge("sewkit_queue_audio_seconds", "Sound that waits for the model.")
        self.live_sessions = gauge("sewkit_live_sessions", "WebSockets with live sound.")
        self.busy = gauge("sewkit_busy", "Share of the model's time that the load takes at the dearest point.")
        self.level = gauge("sewkit_level", "The governor's rung, 0 is the cheapest.")
        self.levels = gauge("sewkit_levels", "Rungs that there are.")

    def ran(self, compute: str, items: int, sound: float, seconds: float) -> None:
        """Take note of a batch."""
        self.batch_seconds.labels(compute).observe(seconds)
        self.batch_items.observe(items)
        self.audio.labels(compute).inc(sound)

    def render(self) -> bytes:
        """Prometheus' text format."""
        if MULTIPROCESS_FOLDER not in os.environ:
            return generate_latest(self._registry)
        joined = CollectorRegistry()
        MultiProcessCollector(joined)
        return generate_latest(joined)

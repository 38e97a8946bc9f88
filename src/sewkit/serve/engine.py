"""The one place where the model runs: recordings and live sound wait here for their turn.

Everything that waits is a stretch of sound with a deadline. One loop takes the next batch, see `batcher`, at the point
that the `governor` chooses, and runs it in the model's own thread; words are decoded in another. The event loop only
passes things on.

A recording is a coroutine that hears its chunks one after the other. A long one has as many chunks waiting as fill a
batch, with deadlines so late that recordings of a single chunk go first, and at points so cheap that one of its chunks
holds the model for half the objective at most: nobody waits behind an hour of audio.

For those who add ways in (routers, see `app.create_app`):

- `await engine.transcribe(samples, wish)` -> `Outcome`, for a whole recording;
- `engine.hearing`: `recognizer`, whose `stream()` may be fed in any thread and takes turns with all other work, and
  `point_for_finals(request)`, the best operating point that can be afforded now;
- `engine.state()`: plain JSON types for `GET /v1/state`, which the page polls;
- `engine.metrics`: counters and gauges, see `metrics`;
- `engine.before_shutdown.append(coroutine_function)`: called when the server is asked to end, before it stops listening
  and waits for what is on its way; `engine.is_draining` is then True.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sewkit.audio import SAMPLE_RATE
from sewkit.chunks import CHUNK_SECONDS, ChunkPlan
from sewkit.compute import Compute
from sewkit.config import ModelConfig
from sewkit.decode import Decoder, GreedySearch
from sewkit.pieces import Piece, Recording, Stitched
from sewkit.recognizer import Recognizer
from sewkit.runtime import Runtime
from sewkit.serve.batcher import Batch, Entry, next_batch
from sewkit.serve.costs import CLIP_SECONDS, calibrate
from sewkit.serve.deltas import Deltas
from sewkit.serve.errors import ApiError
from sewkit.serve.governor import Governor, Waiting
from sewkit.serve.ladder import candidates, rungs
from sewkit.serve.metrics import Metrics
from sewkit.serve.settings import Settings
from sewkit.transcript import Transcript

CHUNK_PATIENCE = 4.0
"""A chunk of a long recording may wait so many times the objective before it goes ahead of others."""
BLOCKING_SHARE = 0.5
"""Of the objective: for longer no chunk of a long recording, nor a wait for live sound, may hold the model."""
WINDOW_RECORDINGS = 10
"""Arrivals count over the time in which so many clips of ten seconds are done at the dearest point, within limits."""
MIN_WINDOW, MAX_WINDOW = 2.0, 20.0
RECENT = 1000
"""Recordings over which the state tells times."""


@dataclass(frozen=True)
class Wish:
    """What a client wants of a recording.

    arrived: when it was there, on the clock of the event loop. compute: the point to run at; None leaves it to the
    governor. latency: seconds within which it wants its answer, in place of the server's objective.
    """

    arrived: float
    compute: Compute | None = None
    latency: float | None = None
    decoder: Decoder | None = None
    on_text: Callable[[str, Compute], None] | None = None
    """Told of new text as soon as it is final, with the point at which it was heard."""


@dataclass(frozen=True)
class Outcome:
    """A transcript, and the seconds of sound that were heard at each operating point, most first."""

    transcript: Transcript
    points: dict[str, float]

    @property
    def point(self) -> str:
        """The operating points, most sound first, such as `squeeze=2`, or `squeeze=2; squeeze=4`."""
        return "; ".join(self.points)


class BusyError(Exception):
    """Not even the cheapest operating point would be fast enough; `retry_after` is when, in seconds."""

    def __init__(self, retry_after: float):
        super().__init__(f"the server is busy; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


@dataclass
class _Stretch:
    """Sound that waits, and the promise of its logits with the point at which they were computed."""

    samples: np.ndarray
    since: float
    heard: asyncio.Future[tuple[np.ndarray, Compute]]


@dataclass
class _Tally:
    """Seconds from arrival to answer of the last recordings of one chunk."""

    times: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def quantiles(self) -> dict[str, float | None]:
        """In milliseconds."""
        if len(self.times) < 2:
            return {"p50_ms": None, "p95_ms": None}
        cuts = statistics.quantiles(self.times, n=20, method="inclusive")
        return {"p50_ms": round(1e3 * cuts[9], 1), "p95_ms": round(1e3 * cuts[18], 1)}


class Engine:
    """See the module. Raises UserError for a model that does not transcribe, or lacks the operating point."""

    governor: Governor

    def __init__(self, asr: Recognizer, settings: Settings, metrics: Metrics):
        asr.transcription(asr.resolve(None), asr.decoder)  # raises UserError for a model without letters
        self.asr = asr
        self.settings = settings
        self.metrics = metrics
        self._fixed = None if settings.compute is None else asr.resolve(settings.compute)
        self.hearing = Hearing(self)
        self.before_shutdown: list[Callable[[], Awaitable[None]]] = []
        self.is_draining = False
        self.num_requests = 0
        """Recordings on their way."""
        self.batch_seconds = settings.batch_seconds or asr.batch_seconds
        self._plan = ChunkPlan.for_model(asr.config)
        self._waiting: list[Entry[_Stretch]] = []
        self._coming: list[Waiting] = []  # admitted, their sound is still being read
        self._something_waits = asyncio.Event()
        self._running: Batch[_Stretch] | None = None
        self._model_thread = ThreadPoolExecutor(1, "model")
        self._words_thread = ThreadPoolExecutor(1, "words")
        self._tally = _Tally()

    async def start(self) -> None:
        """Calibrate the device and begin to work. Raises UserError."""
        self.loop = asyncio.get_running_loop()
        self.governor = await asyncio.to_thread(self._make_governor)
        self._worker = asyncio.create_task(self._work())

    async def drain(self) -> None:
        """The server was asked to end: tell those who hold connections open."""
        self.is_draining = True
        await asyncio.gather(*(tell() for tell in self.before_shutdown))

    async def close(self) -> None:
        """End, once nothing is on its way."""
        self._worker.cancel()
        self._model_thread.shutdown()
        self._words_thread.shutdown()

    # Recordings

    def admit(self) -> None:
        """Raises BusyError if more sound would wait too long for its turn even at the cheapest operating point.

        A full batch may always wait: a model that is too slow for the objective still has its next one ready.
        """
        wait = self.governor.wait(self._queue())
        batch = self.governor.costs.of(self.governor.rungs[0]).seconds(self.batch_seconds)
        if wait > max(self.settings.max_wait, batch):
            raise BusyError(max(1.0, wait - self.settings.target))

    async def transcribe(self, samples: np.ndarray, wish: Wish) -> Outcome:
        """Hear a recording, (num_samples,) float32 at 16 kHz; an array on disk is read chunk by chunk.

        The words are those that the library gives. Raises BusyError; UserError where the model has no letters.
        """
        self.admit()
        self.num_requests += 1
        try:
            outcome = await _Hearer(self, samples, wish).run()
        finally:
            self.num_requests -= 1
        if len(samples) <= self._plan.chunk:
            self._tally.times.append(self.loop.time() - wish.arrived)
        return outcome

    async def hear(
        self, samples: np.ndarray, waiting: Waiting, *, alone: bool = False, counts: bool = True
    ) -> tuple[np.ndarray, Compute]:
        """Logits of up to a chunk of sound, (T, V), and the point at which they were computed.

        alone: it shares no batch. counts: somebody waits for it, so that it counts as load.
        """
        now = self.loop.time()
        if counts:
            self.governor.arrive(waiting.sound, now, waiting.fixed)
        stretch = _Stretch(samples, now, self.loop.create_future())
        self._waiting.append(Entry(stretch, waiting, alone))
        self._something_waits.set()
        return await stretch.heard

    @contextmanager
    def expecting(self, sound: float) -> Iterator[None]:
        """Meanwhile so much sound is on its way to the queue."""
        coming = Waiting(sound, self.loop.time() + self.settings.target)
        self._coming.append(coming)
        try:
            yield
        finally:
            self._coming.remove(coming)

    async def in_words_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run what is not the model's work, in order."""
        return await self.loop.run_in_executor(self._words_thread, function, *args)

    # The loop

    async def _work(self) -> None:
        while True:
            await self._something_waits.wait()
            self._waiting = [entry for entry in self._waiting if not entry.item.heard.done()]  # cancelled ones go
            batch = next_batch(self._waiting, self.governor, self.batch_seconds, self.loop.time())
            if batch is None:
                self._something_waits.clear()
                continue
            chosen = set(map(id, batch.items))
            self._waiting = [entry for entry in self._waiting if id(entry.item) not in chosen]
            self._running = batch
            await self._run(batch)
            self._running = None

    async def _run(self, batch: Batch[_Stretch]) -> None:
        begun = self.loop.time()
        for item in batch.items:
            self.metrics.waited.observe(begun - item.since)
        outputs = await self.loop.run_in_executor(self._model_thread, self._logits, batch)
        seconds = self.loop.time() - begun
        if not any(isinstance(output, Exception) for output in outputs):
            self.governor.costs.learn(batch.point, batch.sound, seconds)
        self.metrics.ran(str(batch.point), len(batch.items), batch.sound, seconds)
        for item, output in zip(batch.items, outputs, strict=True):
            if item.heard.done():
                continue
            if isinstance(output, Exception):
                item.heard.set_exception(output)
            else:
                item.heard.set_result((output, batch.point))

    def _logits(self, batch: Batch[_Stretch]) -> Sequence[np.ndarray | Exception]:
        """In the model's thread. A batch that fails is run again one by one, so that it costs only who is at fault."""
        try:
            return self.asr.runtime.logits([item.samples for item in batch.items], batch.point)
        except Exception as error:
            if len(batch.items) == 1:
                return [error]
            return [self._logits(replace(batch, items=[item]))[0] for item in batch.items]

    def _queue(self) -> list[Waiting]:
        waiting = [entry.waiting for entry in self._waiting if not entry.item.heard.done()]
        return [*waiting, *self._coming]

    def _make_governor(self) -> Governor:
        points = candidates(self.asr) if self._fixed is None else [self._fixed]
        costs = calibrate(self.asr, points, self.batch_seconds, self.settings.calibration_runs)
        ladder = rungs(points, costs)
        typical = costs.of(ladder[-1]).seconds(CLIP_SECONDS[-1])
        window = min(max(WINDOW_RECORDINGS * typical, MIN_WINDOW), MAX_WINDOW)
        return Governor(ladder, costs, self.settings.target, self.batch_seconds, window=window, hold=window / 2)

    # What is told

    @property
    def name(self) -> str:
        """Under which clients know the model."""
        return self.settings.name or Path(self.asr.name).name

    def expect_name(self, model: str) -> None:
        """Raises ApiError unless this is a name of the model; none is one too."""
        if model not in ("", self.name, *self.settings.aliases):
            message = f"no model {model[:100]!r} here; this server has {self.name}"
            raise ApiError(404, message, param="model", code="model_not_found")

    def refresh_gauges(self) -> None:
        """Bring the metrics of what is now up to date."""
        now, queue = self.loop.time(), self._queue()
        self.metrics.queue_requests.set(self.num_requests)
        self.metrics.queue_audio.set(sum(one.sound for one in queue))
        self.metrics.busy.set(self.governor.busy(self.governor.rungs[-1], now))
        self.metrics.level.set(self.governor.level)
        self.metrics.levels.set(len(self.governor.rungs))

    def state(self) -> dict[str, Any]:
        """Now: queue, operating point, load, times, and the model's points with their errors and costs.

        {"model", "governed", "draining", "target_p95_ms", "compute": the point for what comes next,
        "queue": {"requests", "chunks", "audio_seconds", "wait_ms": at the cheapest point}, "busy": the share of the
        model's time that the load takes at the dearest point, may be above 1, "p50_ms", "p95_ms": of the last
        recordings, "points": [{"point", "names", "used": whether the governor chooses it, "ms_per_10s": now, on this
        device, None where not calibrated, "wer", "wer_low", "wer_high": None without a curve}], fastest first}
        """
        now, queue = self.loop.time(), self._queue()
        point = self.governor.choose(now, queue)
        return {
            "model": self.name,
            "governed": self._fixed is None,
            "draining": self.is_draining,
            "target_p95_ms": self.settings.target_p95_ms,
            "compute": str(point),
            "queue": {
                "requests": self.num_requests,
                "chunks": len(queue),
                "audio_seconds": round(sum(one.sound for one in queue), 2),
                "wait_ms": round(1e3 * self.governor.wait(queue), 1),
            },
            "busy": round(self.governor.busy(self.governor.rungs[-1], now), 3),
            **self._tally.quantiles(),
            "points": [self._describe(option) for option in self.asr.compute_options],
        }

    def _describe(self, point: Compute) -> dict[str, Any]:
        governor, curve = self.governor, self.asr.loaded.curve
        rates = {one.point: one for one in curve.points}.get(str(point)) if curve is not None else None
        names = {name: self.asr.resolve(name) for name in ("full", "balanced", "fast")}
        cost = governor.costs.of(point).seconds(CLIP_SECONDS[-1]) if point in governor.costs else None
        return {
            "point": str(point),
            "names": [name for name, named in names.items() if named == point],
            "used": point in governor.rungs,
            "ms_per_10s": None if cost is None else round(1e3 * cost, 2),
            "wer": None if rates is None else rates.wer,
            "wer_low": None if rates is None else rates.wer_low,
            "wer_high": None if rates is None else rates.wer_high,
        }


class _Hearer:
    """One recording on its way through the engine."""

    def __init__(self, engine: Engine, samples: np.ndarray, wish: Wish):
        self._engine, self._samples, self._wish = engine, samples, wish
        self._decoder = wish.decoder or engine.asr.decoder
        self._recording: Recording[Stitched] = Recording(0, "upload")
        self._seconds: defaultdict[str, float] = defaultdict(float)
        is_told = wish.on_text is not None and isinstance(self._decoder, GreedySearch)
        self._deltas = Deltas(engine.asr.loaded.alphabet) if is_told and engine.asr.loaded.alphabet else None
        self._told = ""
        # How many chunks wait at a time: as many as fill a batch.
        self._ahead = max(1, int(engine.batch_seconds // CHUNK_SECONDS))

    async def run(self) -> Outcome:
        """All chunks, then the words."""
        pieces = self._recording.read(self._samples, self._engine._plan)
        with self._engine.expecting(min(len(self._samples) / SAMPLE_RATE, CHUNK_SECONDS)):
            piece = await asyncio.to_thread(next, pieces, None)
        on_their_way: deque[asyncio.Task[None]] = deque()
        try:
            while piece is not None:
                on_their_way.append(asyncio.create_task(self._hear(piece)))
                if len(on_their_way) >= self._ahead:
                    await on_their_way.popleft()
                piece = await asyncio.to_thread(next, pieces, None)
            while on_their_way:
                await on_their_way.popleft()
        finally:
            for task in on_their_way:
                task.cancel()
        if self._recording.error is not None:
            raise self._recording.error
        return await self._finish()

    async def _hear(self, piece: Piece[Stitched]) -> None:
        engine, sound = self._engine, len(piece.chunk.samples) / SAMPLE_RATE
        is_whole = piece.index == 0 and piece.chunk.keep_to is None
        logits, point = await engine.hear(piece.chunk.samples, self._waiting(sound, is_whole), counts=is_whole)
        task = engine.asr.transcription(point, self._decoder)
        self._recording.kept[piece.index] = await engine.in_words_thread(task.keep, piece, logits)
        self._seconds[str(point)] += piece.new_seconds(engine._plan.hop)
        if self._deltas is not None:
            self._tell(await engine.in_words_thread(self._deltas.settled, self._recording), point)

    def _waiting(self, sound: float, is_whole: bool) -> Waiting:
        wish, engine = self._wish, self._engine
        target = engine.settings.target
        if is_whole:
            limit = wish.latency
            deadline = wish.arrived + (target if limit is None else limit)
        else:
            limit = BLOCKING_SHARE * min(target, wish.latency or target)
            deadline = engine.loop.time() + CHUNK_PATIENCE * target
        ceiling = None if limit is None else engine.governor.ceiling(sound, limit)
        return Waiting(sound, deadline, wish.compute, ceiling)

    def _tell(self, text: str, point: Compute) -> None:
        if text and self._wish.on_text is not None:
            self._wish.on_text(text, point)
            self._told += text

    async def _finish(self) -> Outcome:
        points = dict(sorted(self._seconds.items(), key=lambda item: -item[1]))
        most = Compute.parse(next(iter(points)))
        task = self._engine.asr.transcription(most, self._decoder)
        transcript = await self._engine.in_words_thread(task.finish, self._recording)
        self._tell(transcript.text[len(self._told) :], most)
        return Outcome(transcript, {point: round(seconds, 3) for point, seconds in points.items()})


class Hearing:
    """The engine for live sound; see `live.Hearing`, which says what live sessions need of a server."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.recognizer = Recognizer(engine.asr.loaded, _Turns(engine), engine.asr.name)
        self.recognizer.decoder = engine.asr.decoder

    def point_for_finals(self, request: Compute | None) -> Compute:
        """The best operating point that can be afforded now, or the one that the client asked for."""
        engine = self._engine
        return engine.governor.choose(engine.loop.time(), engine._queue()) if request is None else request


class _Turns(Runtime):
    """A runtime that may be called from any thread but the event loop's: calls wait for the engine's turn."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.config: ModelConfig = engine.asr.config

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """See `Runtime.logits`; each waveform is heard alone."""
        point = self._engine.asr.resolve(compute)
        calls = [
            asyncio.run_coroutine_threadsafe(self._hear(waveform, point), self._engine.loop) for waveform in waveforms
        ]
        return [call.result() for call in calls]

    async def _hear(self, waveform: np.ndarray, point: Compute) -> np.ndarray:
        engine = self._engine
        deadline = engine.loop.time() + BLOCKING_SHARE * engine.settings.target
        waiting = Waiting(len(waveform) / SAMPLE_RATE, deadline, fixed=point)
        logits, _ = await engine.hear(waveform, waiting, alone=True)
        return logits

    def encode(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """Not of a stream, which asks for logits. Raises TypeError."""
        raise TypeError("a live stream asks for logits only")

    class_scores = encode

"""The stages of every engine: a lot's recordings read, decoded to 16 kHz, batched in length buckets, transcribed."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from sewkit.audio import SAMPLE_RATE, AudioError, AudioSource, load_segment, stream_audio
from sewkit.bulk import storage
from sewkit.bulk.listing import Clip, Entry, Lot
from sewkit.bulk.rows import CRASHED, FAILED, MISSING, UNREACHABLE, UNREADABLE, Row, Trouble, error_row, text_row
from sewkit.transcript import Transcript

if TYPE_CHECKING:
    from sewkit.compute import Compute
    from sewkit.recognizer import Recognizer

STREAMED_SECONDS = 300.0
"""A longer recording is not decoded ahead: the model takes it block by block, so that memory stays flat."""
STAGES = READ, DECODE, TRANSCRIBE, WRITE = ("read", "decode", "transcribe", "write")
REMOTE_READERS = 16
"""Recordings of a lot that are fetched at a time from a store; local files are read one after the other."""


@dataclass(frozen=True)
class ModelSpec:
    """What `sewkit.load` is told in every process, and how much sound shares a batch."""

    source: str
    device: str | None = None
    dtype: str = "float32"
    runtime: str = "auto"
    threads: int | None = 1
    architecture: str | None = None
    lm: str | None = None
    batch_seconds: float | None = None

    def load(self) -> Recognizer:
        """The model in this process. Raises UserError, also for one that does not transcribe."""
        # oneDNN keeps the code that it makes for each shape, 1,024 pieces unless told otherwise when it is first used.
        # Lots hardly ever have a shape twice: over 1,600 recordings a worker grew by 190 MB, and was no faster for it.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
        from sewkit.recognizer import load  # with torch, of which processes that only read have no need

        asr = load(
            self.source,
            device=self.device,
            dtype=self.dtype,
            runtime=self.runtime,
            threads=self.threads,
            architecture=self.architecture,
            lm=self.lm,
        )
        asr.transcription(asr.resolve(None), asr.decoder)  # raises UserError for a model without letters
        asr.batch_seconds = self.batch_seconds or asr.batch_seconds
        return asr


class Stopwatch:
    """Seconds by stage, of the clock on the wall and of the CPU."""

    def __init__(self) -> None:
        self.wall = dict.fromkeys(STAGES, 0.0)
        self.cpu = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def measure(self, stage: str, cpu_clock: Callable[[], float] = time.thread_time) -> Iterator[None]:
        """Adds the time of the block. `cpu_clock`: of this thread, or where others work for it, of the process."""
        wall, cpu = time.perf_counter(), cpu_clock()
        try:
            yield
        finally:
            self.wall[stage] += time.perf_counter() - wall
            self.cpu[stage] += cpu_clock() - cpu

    def add(self, other: Stopwatch) -> None:
        """The times of another one to these."""
        for stage in STAGES:
            self.wall[stage] += other.wall[stage]
            self.cpu[stage] += other.cpu[stage]


class TooLong:
    """Stands for a recording that is to be streamed."""


Item = TypeVar("Item")
Sound: TypeAlias = "np.ndarray | Trouble | TooLong"
"""A recording as read: float32 (num_samples,) at 16 kHz; or why not."""


@dataclass
class Decoded:
    """A lot with the sound of its recordings, in order."""

    lot: Lot
    sounds: list[Sound]
    watch: Stopwatch


@dataclass
class LotResult:
    """A lot's rows in order, and what they took."""

    lot: Lot
    rows: list[Row]
    point: str
    watch: Stopwatch
    audio_seconds: float
    elapsed: float = 0.0
    """Seconds since the worker's lot before, waiting included."""


@dataclass
class Suspects:
    """The recordings of a lot at which processes died; one of which two died is given up."""

    at: int | None = None
    """That was announced last."""
    deaths: Counter[int] = field(default_factory=Counter)

    def note_death(self) -> None:
        """The process that announced it is no more."""
        if self.at is not None:
            self.deaths[self.at] += 1
        self.at = None

    @property
    def crashed(self) -> frozenset[int]:
        """Not to be tried again."""
        return frozenset(index for index, count in self.deaths.items() if count > 1)


def pulled(
    items: Iterator[Item], ahead: int, meanwhile: Callable[[], object] | None = None, every: float | None = None
) -> Iterator[Item]:
    """The same items, made by a thread of their own, up to `ahead` ahead.

    meanwhile: is called whenever none has come for `every` seconds.
    """
    queue: Queue[tuple[Item | None, BaseException | None]] = Queue(maxsize=ahead)

    def pull() -> None:
        try:
            for item in items:
                queue.put((item, None))
            queue.put((None, StopIteration()))
        except BaseException as error:
            queue.put((None, error))

    Thread(target=pull, daemon=True).start()
    while True:
        try:
            item, error = queue.get(timeout=every)
        except Empty:
            assert meanwhile is not None
            meanwhile()
            continue
        if isinstance(error, StopIteration):
            return
        if error is not None:
            raise error
        yield item  # type: ignore[misc]


# Read and decode


class Reader:
    """Turns lots into sound. Fetches several recordings at a time where they are remote."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(REMOTE_READERS, "reader")

    def read(self, lot: Lot) -> Decoded:
        """All recordings of a lot; what goes wrong with one stands in its place."""
        pairs = list((map if lot.is_local else self._threads.map)(_read, lot.entries))
        watch = Stopwatch()
        for _, one in pairs:
            watch.add(one)
        return Decoded(lot, [sound for sound, _ in pairs], watch)


def read_carefully(lot: Lot, read: Callable[[Entry], tuple[Sound, Stopwatch]] | None = None) -> Decoded:
    """As `Reader.read`, in a process of its own: a recording of which that dies has this for its trouble."""
    sounds: list[Sound] = []
    watch, pool = Stopwatch(), None
    for entry in lot.entries:
        pool = pool or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        try:
            sound, one = pool.submit(read or _read, entry).result()
            watch.add(one)
        except BrokenProcessPool:
            sound, pool = died_of_it(), None
        sounds.append(sound)
    if pool is not None:
        pool.shutdown()
    return Decoded(lot, sounds, watch)


def died_of_it() -> Trouble:
    """In the place of a recording that ends processes."""
    return Trouble(CRASHED, "the process that read it died of it")


def _read(entry: Entry) -> tuple[Sound, Stopwatch]:
    watch = Stopwatch()
    try:
        return _sound(entry, watch), watch
    except Exception as error:  # one bad recording is a row with an error, never a failed job
        return trouble_of(error), watch


def trouble_of(error: Exception) -> Trouble:
    """The row's error for an exception on the way from a file to its text."""
    match error:
        case storage.Unreachable():
            return Trouble(UNREACHABLE, str(error))
        case FileNotFoundError():
            return Trouble(MISSING, "no such file; check the path")
        case AudioError():
            return Trouble(MISSING if error.problem.startswith("no such file") else UNREADABLE, error.problem)
        case OSError():
            return Trouble(UNREACHABLE, error.strerror or str(error))
        case _:
            return Trouble(FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _sound(entry: Entry, watch: Stopwatch) -> Sound:
    if entry.seconds is not None and entry.seconds > STREAMED_SECONDS and is_streamable(entry):
        return TooLong()
    pieces = []
    for clip in entry.clips:
        with _source(clip, watch) as source, watch.measure(DECODE):
            samples = _decode(source, clip, is_streamable(entry))
        if samples is None:
            return TooLong()
        pieces += [np.zeros(round(clip.pause * SAMPLE_RATE), dtype=np.float32), samples] if clip.pause else [samples]
    return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]


def is_streamable(entry: Entry) -> bool:
    """Whether it is one whole file; segments and joined recordings are short enough to be held."""
    return len(entry.clips) == 1 and entry.clips[0].is_whole and not entry.clips[0].pause


@contextmanager
def _source(clip: Clip, watch: Stopwatch) -> Iterator[Any]:
    """What to decode; the time to get hold of it is `read`."""
    with watch.measure(READ):
        context = _member(clip) if clip.size is not None else storage.opened(clip.location, clip.file_size)
        source = context.__enter__()
    try:
        yield source
    finally:
        context.__exit__(None, None, None)


@contextmanager
def _member(clip: Clip) -> Iterator[BytesIO]:
    """A recording from inside a tar: only its bytes are read."""
    fs, path = storage.file_system(clip.location)
    end = clip.offset + (clip.size or 0)
    data = storage.patiently(lambda: fs.cat_file(path, clip.offset, end), clip.location)
    if len(data) < (clip.size or 0):
        raise AudioError(clip.location, "the archive ends inside this recording; download it again")
    yield BytesIO(data)


def _decode(source: AudioSource, clip: Clip, is_streamable: bool) -> np.ndarray | None:
    """float32 (num_samples,) at 16 kHz; None for a recording that is too long to hold."""
    if not clip.is_whole and (clip.start or clip.seconds is not None or clip.channel is not None):
        return load_segment(source, clip.start, clip.seconds, clip.channel)
    blocks, limit = [], STREAMED_SECONDS * SAMPLE_RATE
    for block in stream_audio(source):
        blocks.append(block)
        if is_streamable and len(blocks) > 1 and sum(map(len, blocks)) > limit:
            return None
    return np.concatenate(blocks)


# Transcribe


class Transcriber:
    """Turns sound into rows at any of the model's operating points."""

    def __init__(self, asr: Recognizer, reads_beside: bool = False):
        """reads_beside: the process reads the next lot meanwhile, whose CPU time is then taken off the model's."""
        self.asr = asr
        self.reads_beside = reads_beside
        self._free_since = time.perf_counter()

    @property
    def is_on_gpu(self) -> bool:
        """Whether the CPU is free while the model runs."""
        return str(getattr(self.asr.runtime, "device", "cpu")) != "cpu"

    def transcribe(self, decoded: Decoded, point: Compute) -> LotResult:
        """A row for each recording of the lot, in order."""
        lot, watch = decoded.lot, decoded.watch
        outcomes = self._held(decoded, point, watch)
        for index, sound in enumerate(decoded.sounds):
            if isinstance(sound, TooLong):
                outcomes[index] = self._streamed(lot.entries[index], point, watch)
        rows = [
            error_row(entry.name, outcome, self.asr.name)
            if isinstance(outcome, Trouble)
            else text_row(entry.name, outcome, self.asr.name)
            for entry, outcome in zip(lot.entries, outcomes, strict=True)
        ]
        seconds = sum(row["audio_seconds"] or 0.0 for row in rows)
        if self.reads_beside:
            watch.cpu[TRANSCRIBE] = max(watch.cpu[TRANSCRIBE] - watch.cpu[READ] - watch.cpu[DECODE], 0.0)
        began, self._free_since = self._free_since, time.perf_counter()
        return LotResult(lot, rows, str(point), watch, seconds, self._free_since - began)

    def one_by_one(self, lot: Lot, point: Compute, read: Callable[[int, Lot], Decoded]) -> LotResult:
        """A lot of which processes have died, one by one; `read` announces each by its place, and reads it."""
        rows, watch, seconds, elapsed = [], Stopwatch(), 0.0, 0.0
        for index, entry in enumerate(lot.entries):
            result = self.transcribe(read(index, Lot(lot.shard, lot.index, (entry,))), point)
            rows += result.rows
            watch.add(result.watch)
            seconds += result.audio_seconds
            elapsed += result.elapsed
        return LotResult(lot, rows, str(point), watch, seconds, elapsed)

    def _held(self, decoded: Decoded, point: Compute, watch: Stopwatch) -> list[Transcript | Trouble]:
        """Of sounds in memory, in batches; what was not read keeps its trouble, what is too long waits."""
        waiting = Trouble(FAILED, "not transcribed")
        outcomes: list[Transcript | Trouble] = [
            sound if isinstance(sound, Trouble) else waiting for sound in decoded.sounds
        ]
        places = [index for index, sound in enumerate(decoded.sounds) if isinstance(sound, np.ndarray)]
        sounds = [sound for sound in decoded.sounds if isinstance(sound, np.ndarray)]
        with watch.measure(TRANSCRIBE, time.process_time):
            for index, outcome in zip(places, self._together(sounds, point), strict=True):
                outcomes[index] = outcome
        return outcomes

    def _together(self, sounds: Sequence[AudioSource], point: Compute) -> list[Transcript | Trouble]:
        """Outcomes in order. Where the lot as a whole fails, its recordings are tried one at a time."""
        outcomes: list[Transcript | AudioError] = []
        try:
            for transcript in self.asr.transcribe_batch(sounds, compute=point, on_error=outcomes.append):
                outcomes.append(transcript)
        except Exception as error:
            if len(sounds) == 1:
                return [trouble_of(error)]
            return [self._together([sound], point)[0] for sound in sounds]
        return [trouble_of(outcome) if isinstance(outcome, AudioError) else outcome for outcome in outcomes]

    def _streamed(self, entry: Entry, point: Compute, watch: Stopwatch) -> Transcript | Trouble:
        """Of a long recording: decoding and model take turns, and all of it counts as `transcribe`."""
        try:
            with _source(entry.clips[0], watch) as source, watch.measure(TRANSCRIBE, time.process_time):
                return self._together([source], point)[0]
        except Exception as error:
            return trouble_of(error)

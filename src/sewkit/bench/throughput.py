"""Many recordings of mixed length: sewkit's ways to run them beside transformers' pipeline, in one run.

Times are from files to words, both sides read the same files; or from sound in memory to words. Of each way: seconds,
share of the cores that was busy, memory over the run, and how many transcripts differ from those of one recording at a
time.
"""

from __future__ import annotations

import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE, AudioSource, audio_seconds, load_audio
from sewkit.bench import exports
from sewkit.bench.subject import Subject, prepare
from sewkit.bench.systems import DTYPES
from sewkit.bench.timing import environment, ratio, spread
from sewkit.recognizer import Recognizer, load

PEER = "transformers pipeline"
PEER_BATCH_SIZES, MORE_ON_A_GPU = (1, 2, 4, 8, 16), (32, 64)
TRIAL_SHARE = 5
"""Of the recordings one in so many decides which batch size is the peer's best."""
SAMPLE_EVERY = 0.1
"""Seconds between looks at the memory."""
Transcribe = Callable[[Sequence[AudioSource]], list[str]]


@dataclass(frozen=True)
class Way:
    """A way to run sewkit: runtime and precision, batches side by side (None: as many as threads), sound of a batch."""

    runtime: str
    precision: str
    workers: int | None = None
    batch_seconds: float | None = None

    def __str__(self) -> str:
        said = [f"workers={self.workers}"] if self.workers else []
        said += [f"batch={self.batch_seconds:g}s"] if self.batch_seconds else []
        return " ".join([f"sewkit {self.runtime} {self.precision}", *said])


@dataclass
class Watched:
    """What the process did during a block: memory in MiB every so often, and seconds of its CPUs."""

    mib: list[float] = field(default_factory=list)
    wall: float = 0.0
    cpu: float = 0.0

    @property
    def busy(self) -> float:
        """Share of the threads' time that was spent computing."""
        return self.cpu / (self.wall * torch.get_num_threads())

    @property
    def quarters(self) -> list[float]:
        """The most memory in each quarter of the time; without growth it is the same from the second on."""
        return [float(part.max()) for part in np.array_split(np.array(self.mib), 4) if len(part)]


def measure_throughput(
    model: str,
    paths: Sequence[Path],
    ways: Sequence[Way],
    runs: int,
    peer: str | None = "fp32",
    device: str = "cpu",
    in_memory: bool = False,
    on_pass: Callable[[str], None] = lambda name: None,
    on_skip: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """A row for each way and the peer. `on_pass` hears of each pass over the recordings, before it begins.

    peer: its precision, None to leave it out. in_memory: recordings are read before anything is timed.
    """
    seconds = sum(audio_seconds(path) for path in paths)
    sources: Sequence[AudioSource] = [load_audio(path) for path in paths] if in_memory else paths
    with tempfile.TemporaryDirectory(prefix="sewkit-bench-") as folder:
        subject = prepare(model, None, Path(folder))
        recognizers = _load(subject, ways, device, on_skip)
        calls: dict[str, Transcribe] = {str(way): partial(_ours, way, recognizers[way]) for way in recognizers}
        batch_size = None
        if peer is not None:
            run = _pipeline(subject, device, peer)
            on_pass("choosing the peer's batch size")
            sizes = PEER_BATCH_SIZES if device == "cpu" else PEER_BATCH_SIZES + MORE_ON_A_GPU
            batch_size = _best_batch_size(run, sources[::TRIAL_SHARE], sizes)
            calls[f"{PEER} {peer}"] = partial(run, batch_size=batch_size)
        watched, texts = _passes(calls, sources, runs, on_pass)
        on_pass("one by one")
        alone = {asr: [asr.transcribe(one).text for one in sources] for asr in dict.fromkeys(recognizers.values())}
        expected = {str(way): alone[asr] for way, asr in recognizers.items()}
    rows = [_row(name, watched, texts, expected, seconds, len(paths)) for name in calls]
    return {
        "environment": environment(),
        "model": model,
        "device": device,
        "in_memory": in_memory,
        "recordings": len(paths),
        "audio_seconds": seconds,
        "peer_batch_size": batch_size,
        "runs": runs,
        "rows": rows,
    }


def _load(subject: Subject, ways: Sequence[Way], device: str, on_skip: Callable[[str], None]) -> dict[Way, Recognizer]:
    """A recognizer for each way; ways of one runtime and precision share it."""
    shared: dict[tuple[str, str], Recognizer] = {}
    found: dict[Way, Recognizer] = {}
    for way in ways:
        key = (way.runtime, way.precision)
        try:
            if key not in shared:
                source = exports.of_sewkit(subject, *key)
                dtype = DTYPES.get(way.precision, "float32")
                shared[key] = load(source, device=device, runtime=way.runtime, dtype=dtype)
        except ValueError as error:  # UserErrors: not installed, not known
            on_skip(f"{way} skipped: {error}")
        else:
            found[way] = shared[key]
    return found


def _ours(way: Way, asr: Recognizer, sources: Sequence[AudioSource]) -> list[str]:
    asr.workers, default = way.workers, asr.batch_seconds
    asr.batch_seconds = way.batch_seconds or default
    try:
        return [transcript.text for transcript in asr.transcribe_batch(sources)]
    finally:
        asr.workers, asr.batch_seconds = None, default


def _pipeline(subject: Subject, device: str, precision: str) -> Callable[..., list[str]]:
    """transformers' pipeline as a function of recordings and a batch size; they are read as it asks for them."""
    exports.require("transformers")
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    dtype = getattr(torch, DTYPES[precision])
    recognize = pipeline("automatic-speech-recognition", model=str(subject.peer), device=device, dtype=dtype)

    def run(sources: Sequence[AudioSource], batch_size: int) -> list[str]:
        inputs: Any = ({"raw": load_audio(source), "sampling_rate": SAMPLE_RATE} for source in sources)
        return [result["text"] for result in recognize(inputs, batch_size=batch_size)]

    return run


def _best_batch_size(run: Callable[..., list[str]], sources: Sequence[AudioSource], sizes: Sequence[int]) -> int:
    """The one that is fastest on some of the recordings, after a warm-up."""
    run(sources[:2], batch_size=1)
    seconds = {}
    for batch_size in sizes:
        begun = time.perf_counter()
        run(sources, batch_size=batch_size)
        seconds[batch_size] = time.perf_counter() - begun
    return min(seconds, key=seconds.__getitem__)


def _passes(
    calls: dict[str, Transcribe], sources: Sequence[AudioSource], runs: int, on_pass: Callable[[str], None]
) -> tuple[dict[str, list[Watched]], dict[str, list[str]]]:
    """All ways in turn, after a warm-up on a few recordings."""
    for call in calls.values():
        call(sources[: 2 * torch.get_num_threads()])
    watched: dict[str, list[Watched]] = {name: [] for name in calls}
    texts: dict[str, list[str]] = {}
    for run in range(runs):
        for name, call in calls.items():
            on_pass(f"{name}, pass {run + 1}")
            with watching() as seen:
                texts[name] = call(sources)
            watched[name].append(seen)
    return watched, texts


@contextmanager
def watching() -> Iterator[Watched]:
    """Watches the process from a thread during the block."""
    seen, is_over = Watched(), threading.Event()

    def look() -> None:
        while not is_over.wait(SAMPLE_EVERY):
            seen.mib.append(_resident_mib())

    thread = threading.Thread(target=look, name="sewkit-watch")
    usage, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()
        after = resource.getrusage(resource.RUSAGE_SELF)
        seen.wall = time.perf_counter() - begun
        seen.cpu = after.ru_utime + after.ru_stime - usage.ru_utime - usage.ru_stime
        seen.mib.append(_resident_mib())


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def _row(
    name: str,
    watched: dict[str, list[Watched]],
    texts: dict[str, list[str]],
    expected: dict[str, list[str]],
    audio: float,
    count: int,
) -> dict[str, Any]:
    walls = [seen.wall for seen in watched[name]]
    times = spread(walls)
    peers = next((seen for label, seen in watched.items() if label.startswith(PEER)), None)
    differing = None
    if name in expected:
        differing = sum(one != other for one, other in zip(texts[name], expected[name], strict=True))
    return {
        "way": name,
        **{f"{key}_seconds": value for key, value in times.items()},
        "times_real_time": audio / times["median"],
        "recordings_per_second": count / times["median"],
        "times_peer": None if peers is None else ratio([seen.wall for seen in peers], walls),
        "busy": float(np.median([seen.busy for seen in watched[name]])),
        "mib_by_quarter": watched[name][-1].quarters,
        "differ_from_one_by_one": differing,
    }

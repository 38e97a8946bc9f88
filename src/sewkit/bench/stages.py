"""Where the time of a transcription goes, stage by stage, and how near each stage is to its floor.

Stages are timed inside whole runs: of the PyTorch runtime by hooks on the parts of the model, of an int8 export for
OpenVINO by that runtime's counters, whose operations are named after the parts. The floor of a stage is the sum of its
micro-benchmarks (`floor.py`), run in between, so that a drift of the machine is fair to both.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import soundfile
import torch
import torch.nn.functional as F

from sewkit.audio import SAMPLE_RATE, load_audio
from sewkit.bench import floor
from sewkit.bench.floor import Micro, Shapes
from sewkit.bench.timing import PAUSE, interleaved, spread
from sewkit.compute import Compute
from sewkit.decode import FrameTiming, GreedySearch, decode_words
from sewkit.errors import UserError
from sewkit.lengths import hop_samples, receptive_field
from sewkit.model import SpeechModel
from sewkit.processor import multiplies
from sewkit.recognizer import Recognizer
from sewkit.runtime import Runtime
from sewkit.runtime.clips import ClipRuntime
from sewkit.runtime.openvino import INT8, OpenVINOEngine
from sewkit.runtime.pytorch import TorchRuntime
from sewkit.testing import synthetic_speech

READ, REST, DECODE = "read", "rest", "decode"
STAGE_OF = {
    "features": floor.FEATURES,
    "feature_norm": floor.PROJECTION,
    "projection": floor.PROJECTION,
    "squeeze": floor.SQUEEZE,
    "encoder": floor.ENCODER,
    "upsample": floor.UPSAMPLE,
    "head": floor.HEAD,
}
"""The stage of each part of a `SpeechModel`."""
STAGE_IN_GRAPH = STAGE_OF | {
    "first": floor.FEATURES,
    "narrow": floor.FEATURES,
    "rest": floor.FEATURES,
    "encoder_norm": floor.ENCODER,
    "indices": floor.ENCODER,
    "layers": floor.ENCODER,
}
"""The same of a `ClipGraph`."""


def measure_stages(
    asr: Recognizer,
    seconds: float,
    compute: Compute | str | None,
    runs: int,
    on_call: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """One clip of `seconds` from a FLAC file to words.

    Gives `stages`, a row each with its time, its floor and the share of it that is reached, and `micros`, what the
    floors are made of. Raises UserError for a model that does not transcribe, and for other runtimes than PyTorch on a
    CPU and OpenVINO in int8.
    """
    point = asr.resolve(compute)
    clock = _clock(asr.runtime, point)
    shapes = _shapes(asr, seconds, point)
    pieces = floor.micros(shapes)
    with tempfile.TemporaryDirectory() as folder, clock:
        path = Path(folder) / "clip.flac"
        soundfile.write(path, synthetic_speech(shapes.num_samples), SAMPLE_RATE)
        transcribe = partial(_transcribe, asr, path, point, clock)
        calls: dict[str, Callable[[], object]] = {"": _apart(transcribe) if shapes.int8 else transcribe}
        calls |= {f"{piece.stage}/{piece.name}/{way}": _inference(call) for piece, way, call in _ways(pieces)}
        times = interleaved(calls, runs, on_call=on_call)
    laps = [lap for lap in clock.laps[1:] if lap]
    micros = [_micro_row(piece, times) for piece in pieces]
    return {
        "model": asr.name,
        "point": str(point),
        "seconds": seconds,
        "dtype": INT8 if shapes.int8 else str(shapes.dtype).removeprefix("torch."),
        "runs": runs,
        "stages": _stage_rows(laps, micros),
        "micros": micros,
    }


def num_calls(asr: Recognizer, seconds: float, compute: Compute | str | None, runs: int) -> int:
    """Calls that `measure_stages` makes, for a progress bar."""
    with torch.device("meta"):
        shapes = _shapes(asr, seconds, asr.resolve(compute))
        return (runs + 1) * (1 + sum(1 for _ in _ways(floor.micros(shapes))))


def _shapes(asr: Recognizer, seconds: float, point: Compute) -> Shapes:
    num_samples = int(seconds * SAMPLE_RATE)
    if isinstance(asr.runtime, TorchRuntime):
        return Shapes(asr.config, num_samples, point, dtype=asr.runtime.dtype)
    half = multiplies(torch.bfloat16, torch.device("cpu"))
    return Shapes(asr.config, num_samples, point, dtype=torch.bfloat16 if half else torch.float32, int8=True)


def _clock(runtime: Runtime, point: Compute) -> StageClock:
    if isinstance(runtime, TorchRuntime) and runtime.device.type == "cpu":
        return HookClock(runtime.model)
    if isinstance(runtime, ClipRuntime) and isinstance(runtime.engine, OpenVINOEngine) and runtime.dtype == INT8:
        return CounterClock(runtime.engine, point)
    raise UserError("stages are told apart in the PyTorch runtime on a CPU, and in int8 for OpenVINO")


class StageClock:
    """Adds up the seconds of each part of a model, run by run: each run is a lap. A context manager."""

    def __init__(self) -> None:
        self.laps: list[dict[str, float]] = []

    def __enter__(self) -> StageClock:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Something that is no part of the model."""
        begun = time.perf_counter()
        yield
        self.laps[-1][name] += time.perf_counter() - begun

    def read(self) -> None:
        """Is called after the model's part of a lap."""


class CounterClock(StageClock):
    """Reads OpenVINO's counters."""

    def __init__(self, engine: OpenVINOEngine, point: Compute):
        super().__init__()
        self._engine, self._point = engine, point
        engine.counting = True

    def read(self) -> None:
        """See `StageClock.read`."""
        for name, seconds in self._engine.counted(self._point):
            if (found := re.search(r"__module\.(\w+)", name)) and found[1] in STAGE_IN_GRAPH:
                self.laps[-1][STAGE_IN_GRAPH[found[1]]] += seconds


class HookClock(StageClock):
    """Hooks on the parts of a model, which it takes away at the end."""

    def __init__(self, model: SpeechModel):
        super().__init__()
        self._model = model
        self._begun = 0.0

    def __enter__(self) -> StageClock:
        self._hooks = [
            hook
            for name, part in self._model.named_children()
            if name in STAGE_OF
            for hook in (
                part.register_forward_pre_hook(self._begin),
                part.register_forward_hook(partial(self._end, STAGE_OF[name])),
            )
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        self._begun = time.perf_counter()

    def _end(self, stage: str, *_: Any) -> None:
        self.laps[-1][stage] += time.perf_counter() - self._begun


def _transcribe(asr: Recognizer, path: Path, point: Compute, clock: StageClock) -> None:
    """As `Recognizer.transcribe` does it for a clip of one chunk."""
    clock.laps.append(defaultdict(float))
    layers, alphabet = asr.config.conv_layers, asr.loaded.alphabet
    assert alphabet is not None
    with clock.stage(READ):
        waveform = load_audio(path)
    begun = time.perf_counter()
    logits = asr.runtime.logits([waveform], point)[0]
    model_seconds = time.perf_counter() - begun
    clock.read()
    of_parts = sum(clock.laps[-1][stage] for stage in set(STAGE_OF.values()))
    clock.laps[-1][REST] = max(0.0, model_seconds - of_parts)  # counters may add up to a little more than the run
    with clock.stage(DECODE):
        state = GreedySearch().start()
        state.feed(logits)
        decode_words(state.labels(), alphabet, FrameTiming(hop_samples(layers), receptive_field(layers), SAMPLE_RATE))


def _apart(call: Callable[[], None]) -> Callable[[], None]:
    """In another runtime than PyTorch: once PyTorch's threads sleep, which behind it are awake again."""

    def run() -> None:
        time.sleep(PAUSE)
        call()
        time.sleep(PAUSE)
        for _ in range(10):
            F.gelu(torch.zeros(256, 1024))

    return run


def _inference(call: Callable[[], object]) -> Callable[[], object]:
    return torch.inference_mode()(call)


def _ways(pieces: list[Micro]) -> Iterator[tuple[Micro, str, Callable[[], object]]]:
    return ((piece, way, call) for piece in pieces for way, call in piece.ways.items())


def _micro_row(piece: Micro, times: dict[str, list[float]]) -> dict[str, Any]:
    medians = {way: spread(times[f"{piece.stage}/{piece.name}/{way}"])["median"] for way in piece.ways}
    fastest = min(medians, key=medians.__getitem__)
    return {
        "stage": piece.stage,
        "work": piece.name,
        "way": fastest,
        "ms": 1e3 * medians[fastest],
        "macs": piece.macs,
        "gflops": 2 * piece.macs / medians[fastest] / 1e9,
    }


def _stage_rows(laps: list[dict[str, float]], micros: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In the order in which sound passes through them."""
    order = (READ, *dict.fromkeys(STAGE_OF.values()), REST, DECODE)
    medians = {stage: spread([lap.get(stage, 0.0) for lap in laps])["median"] for stage in order}
    total = sum(medians.values())
    return [
        _stage_row(stage, medians[stage], total, [row for row in micros if row["stage"] == stage])
        for stage in order
        if medians[stage]
    ]


def _stage_row(stage: str, seconds: float, total: float, micros: list[dict[str, Any]]) -> dict[str, Any]:
    """`products_ms`: the part of the floor that is arithmetic. No floor where nothing is timed against the stage."""
    lowest = sum(row["ms"] for row in micros)
    return {
        "stage": stage,
        "ms": 1e3 * seconds,
        "share": seconds / total,
        "floor_ms": lowest or None,
        "products_ms": sum(row["ms"] for row in micros if row["macs"]) or None,
        "floor_reached": lowest / (1e3 * seconds) if lowest else None,
    }

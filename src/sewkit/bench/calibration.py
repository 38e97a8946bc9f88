"""How long this device takes for a clip at each operating point; measured once, then kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.timing import environment, interleaved
from sewkit.checkpoint import with_weights
from sewkit.compute import operating_points
from sewkit.decode import GreedySearch
from sewkit.errors import UserError
from sewkit.files import replacing
from sewkit.recognizer import Recognizer
from sewkit.version import __version__

CLIP_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Lengths that are measured; between two of them times are interpolated. Longer recordings are heard in chunks."""
FAR_QUICKER = 1.3
"""More than what a run is quicker than most on a device without other work."""
MOST_STRETCHES = 5
"""Into which the runs of a calibration are cut."""
LONG_ENOUGH = 4
"""Times as many runs in a stretch as its quantile needs: of fewer it would be the slowest one or nearly that."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """Seconds that each point took, in run after run, for a clip alone in its batch: from its samples to its words."""

    clip_seconds: float
    times: dict[str, list[float]]

    def median(self, point: str) -> float:
        """Of a point's runs."""
        return statistics.median(self.times[point])

    def slowdown(self, quantile: float) -> float:
        """How many times its median a run takes at most, with this probability, in the slowest stretch of the runs.

        The runs of all points are taken together, each over its point's median: what makes a run slow lies with the
        device. It has slow moments, which a quantile of all runs makes up for with the quick ones, and so the runs are
        cut into stretches that are long enough for one. Raises UserError where there are too few for this quantile.
        """
        ratios = {point: np.array(times) / self.median(point) for point, times in self.times.items()}
        runs, total = min(map(len, ratios.values())), sum(map(len, ratios.values()))
        needed = require_runs(len(ratios), total, quantile)
        count = min(max(runs // (needed * LONG_ENOUGH), 1), MOST_STRETCHES)
        pieces = [np.array_split(of_point, count) for of_point in ratios.values()]
        stretches = [np.sort(np.concatenate(stretch)) for stretch in zip(*pieces, strict=True)]
        return float(max(stretch[_rank(len(stretch), quantile) - 1] for stretch in stretches))


def require_runs(num_points: int, total: int, quantile: float) -> int:
    """The fewest runs of each point that tell this quantile. Raises UserError where all together are too few."""
    needed = math.ceil(round(quantile / (1 - quantile), 9) / num_points)
    if _rank(total, quantile) > total:
        raise UserError(f"quantile {quantile:g} cannot be told from {total} runs: give --runs {needed} or more")
    return needed


def _rank(count: int, quantile: float) -> int:
    """Of that many values in order, the one that another does not exceed with this probability; may be beyond them."""
    return math.ceil(round(quantile * (count + 1), 9))


def calibrations(asr: Recognizer, clip_seconds: float, runs: int) -> list[Calibration]:
    """Of the measured lengths to both sides of `clip_seconds`, or the one that it is. From the cache where there.

    Raises UserError for a length that is not heard in one piece, or where the model does not transcribe.
    """
    if not 0 < clip_seconds <= CLIP_SECONDS[-1]:
        raise UserError(
            f"--audio-seconds is {clip_seconds:g}; expected more than 0 and at most {CLIP_SECONDS[-1]:g}, "
            "as longer recordings are heard in chunks"
        )
    above = min(length for length in CLIP_SECONDS if length >= clip_seconds)
    below = max((length for length in CLIP_SECONDS if length <= clip_seconds), default=above)
    known = facts(asr)
    return [
        Calibration(length, kept({**known, "clip_seconds": length}, _calls(asr, length), runs))
        for length in sorted({below, above})
    ]


def _calls(asr: Recognizer, clip_seconds: float) -> dict[str, Callable[[], object]]:
    # Of noise few words are written, which for greedy decoding takes as long as many.
    noise = np.random.default_rng(0).standard_normal(int(clip_seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
    return {str(point): partial(asr.transcribe, noise, compute=point) for point in operating_points(asr.config)}


def facts(asr: Recognizer) -> dict[str, Any]:
    """What times depend on."""
    around = environment()
    return {
        **{name: around[name] for name in ("cpu", "threads", "vector_instructions", "gpu", "torch")},
        "device": str(getattr(asr.runtime, "device", "cpu")),
        "dtype": str(getattr(asr.runtime, "dtype", "float32")),
        "engine": type(getattr(asr.runtime, "engine", asr.runtime)).__name__,
        "greedy": isinstance(asr.decoder, GreedySearch),
        "model": model_hash(asr),
        "sewkit": __version__,
    }


def model_hash(asr: Recognizer) -> str:
    """Hexadecimal digest of a model's shape and weights."""
    digest = hashlib.sha256(asr.config.model_dump_json().encode())
    if asr.loaded.exported is not None:
        digest.update(asr.loaded.exported.digest.encode())
        return digest.hexdigest()
    for name, tensor in sorted(with_weights(asr.loaded).model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where calibrations are kept: $XDG_CACHE_HOME/sewkit, by default ~/.cache/sewkit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sewkit" / "calibrations"


def kept(known: dict[str, Any], calls: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each call in run after run: measured now, unless the cache holds as many runs of the same facts.

    A cache that cannot be used is no error. One that was filled while the device was busy with something else would
    spoil every budget from then on: its quickest call is run again, and all are if that is now far quicker.
    """
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / f"{key[:32]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        times = {name: list(map(float, json.loads(path.read_text(encoding="utf-8"))["times"][name])) for name in calls}
        if min(map(len, times.values())) >= runs and not _is_far_quicker_now(times, calls):
            return times
    times = interleaved(calls, runs)
    try:
        with replacing(path) as draft:
            draft.write_text(json.dumps({"facts": known, "times": times}), encoding="utf-8")
    except UserError as error:
        _LOG.warning("the calibration is not kept: %s", error)
    return times


def _is_far_quicker_now(times: Mapping[str, Sequence[float]], calls: Mapping[str, Callable[[], object]]) -> bool:
    medians = {name: statistics.median(of_point) for name, of_point in times.items()}
    quickest = min(medians, key=medians.__getitem__)
    (now,) = interleaved({quickest: calls[quickest]}, 1)[quickest]
    return now * FAR_QUICKER < medians[quickest]

"""How long this device takes for a clip at each operating point; measured once, then kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.timing import environment, interleaved
from sewkit.compute import operating_points
from sewkit.decode import GreedySearch
from sewkit.errors import UserError
from sewkit.files import replacing
from sewkit.recognizer import Recognizer
from sewkit.version import __version__

CLIP_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)
"""Lengths that are measured; between two of them times are interpolated. Longer recordings are heard in chunks."""
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
        """How many times its median a run takes at most, with this probability; an order statistic of all runs.

        The runs of all points are taken together, each over its point's median: what makes a run slow lies with the
        device. Raises UserError where there are too few for this quantile.
        """
        ratios = sorted(seconds / self.median(point) for point, times in self.times.items() for seconds in times)
        rank = math.ceil(round(quantile * (len(ratios) + 1), 9))
        if rank > len(ratios):
            needed = math.ceil(round(quantile / (1 - quantile), 9) / len(self.times))
            raise UserError(
                f"quantile {quantile:g} cannot be told from {len(ratios)} runs: give --runs {needed} or more"
            )
        return ratios[rank - 1]


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
        cached({**known, "clip_seconds": length}, runs, partial(_measure, asr, length, runs))
        for length in sorted({below, above})
    ]


def _measure(asr: Recognizer, clip_seconds: float, runs: int) -> Calibration:
    # Of noise few words are written, which for greedy decoding takes as long as many.
    noise = np.random.default_rng(0).standard_normal(int(clip_seconds * SAMPLE_RATE)).astype(np.float32) * 0.1
    calls: dict[str, Callable[[], object]] = {
        str(point): partial(asr.transcribe, noise, compute=point) for point in operating_points(asr.config)
    }
    return Calibration(clip_seconds, interleaved(calls, runs))


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
    for name, tensor in sorted(asr.loaded.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Where calibrations are kept: $XDG_CACHE_HOME/sewkit, by default ~/.cache/sewkit."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sewkit" / "calibrations"


def cached(known: dict[str, Any], runs: int, measure: Callable[[], Calibration]) -> Calibration:
    """Measured now, unless the cache holds as many runs of the same facts. A cache that cannot be used is no error."""
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    path = cache_folder() / f"{key[:32]}.json"
    try:
        found = Calibration(**json.loads(path.read_text(encoding="utf-8"))["calibration"])
        if min(map(len, found.times.values())) >= runs:
            return found
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    calibration = measure()
    try:
        with replacing(path) as draft:
            draft.write_text(json.dumps({"facts": known, "calibration": asdict(calibration)}), encoding="utf-8")
    except UserError as error:
        _LOG.warning("the calibration is not kept: %s", error)
    return calibration

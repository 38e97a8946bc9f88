"""What a batch costs at each operating point: calibrated when the server starts, corrected by what it measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.calibration import facts, kept
from sewkit.compute import Compute
from sewkit.recognizer import Recognizer

CLIP_SECONDS = (1.0, 5.0, 10.0)
"""Lengths of the clips that are timed alone; the longest also side by side, as many as share a batch."""
SHARED_RATE, OWN_RATE = 0.2, 0.05
"""How much of what a batch took longer than thought is believed of the device, and of its point."""
LARGEST_STEP = 2.0
"""A batch that took longer than so many times what was thought counts as having taken so many times."""


@dataclass(frozen=True)
class Cost:
    """Seconds of work = fixed + per_second * seconds of sound, padding counted as sound."""

    fixed: float
    per_second: float

    def seconds(self, sound: float) -> float:
        """For a batch of `sound` seconds."""
        return self.fixed + self.per_second * sound

    @classmethod
    def fit(cls, sounds: Sequence[float], seconds: Sequence[float]) -> Cost:
        """The line nearest to what was measured, by relative error; neither part is below 0."""
        x, y = np.asarray(sounds), np.asarray(seconds)
        slope, fixed = np.polyfit(x, y, 1, w=1 / y)
        if fixed < 0:
            return cls(0.0, float((x / y).sum() / (x / y * x / y).sum()))
        return cls(float(fixed), max(float(slope), 1e-9))


class Costs:
    """The costs of all points, and how much slower the device is now than when it was calibrated."""

    def __init__(self, calibrated: Mapping[Compute, Cost]):
        self._calibrated = dict(calibrated)
        self._slowdown = 1.0
        self._own = dict.fromkeys(calibrated, 1.0)

    def __contains__(self, point: Compute) -> bool:
        return point in self._calibrated

    def of(self, point: Compute) -> Cost:
        """As it is now. A point that was not calibrated costs what the dearest does."""
        if point not in self._calibrated:
            point = max(self._calibrated, key=lambda known: self._calibrated[known].seconds(CLIP_SECONDS[-1]))
        cost, factor = self._calibrated[point], self._slowdown * self._own[point]
        return Cost(cost.fixed * factor, cost.per_second * factor)

    def learn(self, point: Compute, sound: float, seconds: float) -> None:
        """Take note of a batch."""
        if point not in self._calibrated:
            return
        error = math.log(max(seconds, 1e-9) / self.of(point).seconds(sound))
        error = min(max(error, -math.log(LARGEST_STEP)), math.log(LARGEST_STEP))
        self._slowdown *= math.exp(SHARED_RATE * error)
        self._own[point] = min(max(self._own[point] * math.exp(OWN_RATE * error), 0.5), 2.0)


def calibrate(asr: Recognizer, points: Sequence[Compute], batch_seconds: float, runs: int) -> Costs:
    """Time batches of noise at `points` on this device; the times are kept in the user's cache."""
    batches = [(1, seconds) for seconds in CLIP_SECONDS]
    if (count := int(batch_seconds // CLIP_SECONDS[-1])) > 1:
        batches.append((count, CLIP_SECONDS[-1]))
    known = {**facts(asr), "points": [str(point) for point in points]}
    measured = [kept({**known, "batch": batch}, _calls(asr, points, *batch), runs) for batch in batches]
    sounds = [count * seconds for count, seconds in batches]
    return Costs({point: Cost.fit(sounds, [median(times[str(point)]) for times in measured]) for point in points})


def _calls(asr: Recognizer, points: Sequence[Compute], count: int, seconds: float) -> dict[str, Callable[[], object]]:
    random = np.random.default_rng(0)
    clips = [random.standard_normal(int(seconds * SAMPLE_RATE)).astype(np.float32) * 0.1 for _ in range(count)]
    return {str(point): partial(asr.runtime.logits, clips, point) for point in points}

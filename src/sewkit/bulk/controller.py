"""Which operating point comes next, so that the job ends in time: pure arithmetic, no clock of its own.

The cost of a second of sound is the time of a worker: reading and decoding, which is the same at all points, and the
model. Of points that ran it is measured; of others it is what the model's curve (or its MACs) says relative to those
that did. Lots are run at the best point at which all the sound that is left would be done in time, and in between, as
often as there is time for it, at the next better one: from the start to the end of the archive alike, so that no part
of it is heard worse than another, and what was not foreseen can be made good until the last lots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sewkit.compute import REFERENCE_SAMPLES, Compute, macs, operating_points

if TYPE_CHECKING:
    from sewkit.recognizer import Recognizer

MARGIN = 0.02
"""Of all time that is kept back: lots under way do not end at the same moment, and a summary is written."""
MEMORY = 0.9
"""Weight of what was measured before in each new lot's figure."""


@dataclass(frozen=True)
class Candidate:
    """An operating point and what it is expected to cost, in any unit that is the same for all."""

    compute: Compute
    cost: float
    wer: float | None = None


def candidates(asr: Recognizer) -> tuple[Candidate, ...]:
    """The points worth running, cheapest first, each with fewer errors than those before: the front of the curve.

    Without a measured curve, all points by MACs: what computes more is taken to err less.
    """
    curve = asr.loaded.curve
    points = operating_points(asr.config) if curve is None else [point.compute for point in curve.front]
    return tuple(sorted((candidate(asr, point) for point in points), key=lambda one: one.cost))


def candidate(asr: Recognizer, point: Compute) -> Candidate:
    """A point with what it should cost; of one that is not on the model's curve by MACs relative to the dearest."""
    curve = asr.loaded.curve
    if curve is None:
        return Candidate(point, _macs(asr, point))
    measured = {one.compute: one for one in curve.points}
    if point in measured:
        return Candidate(point, measured[point].real_time_factor, measured[point].wer)
    dearest = max(curve.points, key=lambda one: one.macs_per_second)
    return Candidate(point, dearest.real_time_factor * _macs(asr, point) / _macs(asr, dearest.compute))


def _macs(asr: Recognizer, point: Compute) -> float:
    return float(sum(macs(asr.config, REFERENCE_SAMPLES, point).values()))


@dataclass
class _Measured:
    """Worker seconds for a second of sound, newer lots counting more."""

    seconds: float = 0.0
    audio: float = 0.0

    def add(self, seconds: float, audio: float) -> None:
        self.seconds = MEMORY * self.seconds + seconds
        self.audio = MEMORY * self.audio + audio

    @property
    def rate(self) -> float | None:
        return self.seconds / self.audio if self.audio else None


@dataclass
class Controller:
    """Chooses among `points` (cheapest first) for `num_workers` that work at the same time."""

    points: Sequence[Candidate]
    num_workers: int
    reserve: float = 0.0
    """Seconds to be left at the end."""
    _models: dict[str, _Measured] = field(default_factory=dict)
    _decoding: _Measured = field(default_factory=_Measured)
    _credit: float = 0.0
    """Lots that the point above the best has not had yet; a whole one is due."""

    def observe(self, point: str, model_seconds: float, other_seconds: float, audio_seconds: float) -> None:
        """A lot is done: seconds that a worker spent in the model, and beside it."""
        self._models.setdefault(point, _Measured()).add(model_seconds, audio_seconds)
        self._decoding.add(other_seconds, audio_seconds)

    def cost(self, candidate: Candidate) -> float:
        """Seconds of the job for a second of sound; infinite while nothing is measured."""
        model, other = self._model_cost(candidate), self._decoding.rate
        return math.inf if model is None or other is None else (model + other) / self.num_workers

    def choose(self, audio_left: float, time_left: float) -> Compute:
        """The point of the next lot; the cheapest while nothing is measured, or if none is in time.

        The point above the best that is in time is tried once, as what is only expected of it may be wrong.
        """
        time_left -= self.reserve
        costs = [self.cost(one) for one in self.points]
        in_time = [index for index, cost in enumerate(costs) if audio_left * cost <= time_left]
        best = in_time[-1] if in_time else 0
        is_between = bool(in_time) and best + 1 < len(self.points) and self._rate(self.points[best]) is not None
        if is_between and self._is_due(best + 1, audio_left * costs[best], audio_left * costs[best + 1], time_left):
            return self.points[best + 1].compute
        return self.points[best].compute

    def _is_due(self, above: int, seconds: float, seconds_above: float, time_left: float) -> bool:
        """Whether the next lot is run at a point at which all that is left would be too late."""
        if self._rate(self.points[above]) is None:
            return True
        self._credit += (time_left - seconds) / (seconds_above - seconds)
        is_due = self._credit >= 1
        self._credit -= is_due
        return is_due

    def _model_cost(self, candidate: Candidate) -> float | None:
        own = self._rate(candidate)
        if own is not None:
            return own
        known = [(one.cost, rate) for one in self.points if (rate := self._rate(one)) is not None]
        if not known:
            return None
        # By the measured point that is nearest in cost: ratios over a short distance are the most certain.
        nearest, rate = min(known, key=lambda pair: abs(math.log(pair[0] / candidate.cost)))
        return rate * candidate.cost / nearest

    def _rate(self, candidate: Candidate) -> float | None:
        measured = self._models.get(str(candidate.compute))
        return None if measured is None else measured.rate

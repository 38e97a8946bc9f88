"""Load to operating point: how much the server computes for the batch that it is about to run.

A pure rule over numbers, without a clock, a queue or a model of its own. The `rungs` are operating points from the
cheapest to the dearest. A rung is affordable while

- everything that waits would be done in its time, if all of it ran at that rung one after the other, and
- the work that arrives, seen over a few seconds, would keep the model busy for less than a share of the time.

The dearest affordable rung is chosen. Down the ladder it goes at once; up it goes only to a rung that has been
affordable by a wider margin for a while, so that it does not flap. Where nothing waits and little arrives, that is the
dearest. Where nothing is affordable it is the cheapest, and requests are refused only where that is not enough either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sewkit.compute import Compute
from sewkit.serve.costs import Costs

LEAST_SHARE = 0.25
"""What is late no longer asks for more than to be done within this share of the objective."""


@dataclass(frozen=True)
class Margins:
    """What affordable means: `wait` is the share of the time left, `busy` the share of the model's time."""

    wait: float
    busy: float


STAY, RISE = Margins(0.7, 0.92), Margins(0.5, 0.82)


@dataclass(frozen=True)
class Waiting:
    """A stretch of sound that waits for the model: its length and deadline in seconds.

    fixed: the point that its client asked for. ceiling: the dearest point at which it keeps a limit of its own.
    """

    sound: float
    deadline: float
    fixed: Compute | None = None
    ceiling: Compute | None = None


class Arrivals:
    """Seconds of something that arrive in a second, on average over about `window` seconds."""

    def __init__(self, window: float):
        self._window = window
        self._rate = 0.0
        self._time = -math.inf

    def add(self, amount: float, now: float) -> None:
        """Take note of an arrival."""
        self._rate = self.rate(now) + amount / self._window
        self._time = max(self._time, now)

    def rate(self, now: float) -> float:
        """As it is now: it fades where nothing arrives."""
        return self._rate * math.exp(-max(now - self._time, 0.0) / self._window) if self._rate else 0.0


class Governor:
    """See the module. `rungs`: cheapest first; `target`: the objective in seconds.

    window: seconds over which arrivals count; a recording alone must not look like a crowd. hold: seconds for which a
    rung has to have been affordable before it is climbed to.
    """

    def __init__(
        self, rungs: Sequence[Compute], costs: Costs, target: float, batch_seconds: float, *, window: float, hold: float
    ):
        self.rungs = tuple(rungs)
        self.costs = costs
        self.target = target
        self.level = len(self.rungs) - 1
        """The rung that was chosen last, as its place on the ladder."""
        self._batch_seconds = batch_seconds
        self._hold = hold
        self._sound, self._work = Arrivals(window), Arrivals(window)
        self._not_affordable = [-math.inf] * len(self.rungs)  # when it was last seen

    @property
    def point(self) -> Compute:
        """The rung that was chosen last."""
        return self.rungs[self.level]

    def arrive(self, sound: float, now: float, fixed: Compute | None = None) -> None:
        """Take note of sound that somebody waits for; `fixed` is its point where that is not the governor's choice."""
        if fixed is None:
            self._sound.add(sound, now)
        else:
            self._work.add(self._share(sound, fixed), now)

    def choose(self, now: float, waiting: Iterable[Waiting] = ()) -> Compute:
        """The point to run at, now that all of this waits."""
        in_order = sorted(waiting, key=lambda one: one.deadline)
        for level, point in enumerate(self.rungs):
            if not self._is_affordable(point, RISE, now, in_order):
                self._not_affordable[level] = now
        affordable = [
            level
            for level, point in enumerate(self.rungs)
            if (level <= self.level or now - self._not_affordable[level] >= self._hold)
            and self._is_affordable(point, STAY, now, in_order)
        ]
        self.level = max(affordable, default=0)
        return self.point

    def point_for(self, one: Waiting) -> Compute:
        """The point of one of those that wait, while the governor is where it is."""
        if one.fixed is not None:
            return one.fixed
        if one.ceiling is None or one.ceiling not in self.rungs:
            return self.point
        return self.rungs[min(self.level, self.rungs.index(one.ceiling))]

    def ceiling(self, sound: float, seconds: float) -> Compute:
        """The dearest rung at which so much sound takes at most `seconds`, alone; the cheapest if none does."""
        fitting = [point for point in self.rungs if self.costs.of(point).seconds(sound) <= seconds]
        return fitting[-1] if fitting else self.rungs[0]

    def busy(self, point: Compute, now: float) -> float:
        """The share of the model's time that what arrives takes if it runs at `point`; more than 1 is too much."""
        cost = self.costs.of(point)
        # At the limit batches are full, and share what they cost beside their sound.
        return self._work.rate(now) + self._sound.rate(now) * (cost.per_second + cost.fixed / self._batch_seconds)

    def wait(self, waiting: Iterable[Waiting]) -> float:
        """Seconds until all of this would be done at the cheapest rung."""
        return sum(self._share(one.sound, one.fixed or self.rungs[0]) for one in waiting)

    def _is_affordable(self, point: Compute, margins: Margins, now: float, in_order: Sequence[Waiting]) -> bool:
        if self.busy(point, now) > margins.busy:
            return False
        done = self.costs.of(point).fixed
        for one in in_order:
            done += self._share(one.sound, one.fixed or point)
            if done > margins.wait * max(one.deadline - now, LEAST_SHARE * self.target):
                return False
        return True

    def _share(self, sound: float, point: Compute) -> float:
        """Seconds of work for sound that shares its batch with as much as fits beside it."""
        cost = self.costs.of(point)
        return cost.fixed * min(1.0, sound / self._batch_seconds) + cost.per_second * sound

"""The operating points between which a governor moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sewkit.compute import REFERENCE_SAMPLES, Compute, macs, operating_points
from sewkit.recognizer import Recognizer
from sewkit.serve.costs import CLIP_SECONDS, Costs

STEP = 0.9
"""A rung costs at most so much of the one above it: a smaller saving is not worth more errors."""


def candidates(asr: Recognizer) -> list[Compute]:
    """Points worth calibrating, cheapest first: the Pareto front of the measured curve, or without one by MACs."""
    if asr.loaded.curve is not None:
        return thinned([point.compute for point in asr.loaded.curve.front], _seconds_by_curve(asr))
    points = list(operating_points(asr.config))
    return thinned(points, lambda point: sum(macs(asr.config, REFERENCE_SAMPLES, point).values()))


def rungs(points: Sequence[Compute], costs: Costs) -> list[Compute]:
    """Of `points`, cheapest first, all but the lowest ones that on this device take longer than those above them.

    The last resort has to be the fastest. A slow rung between does no harm: where it is affordable, so is one above.
    """
    seconds = {point: costs.of(point).seconds(CLIP_SECONDS[-1]) for point in points}
    fastest = min(points, key=seconds.__getitem__)
    return list(points[points.index(fastest) :])


def thinned(points: Sequence[Compute], cost: Callable[[Compute], float]) -> list[Compute]:
    """The last of `points`, and from there down each that is cheaper by a `STEP` than the one kept before.

    The cheapest of all is kept in any case, in place of one that it is not a step below.
    """
    kept = [points[-1]]
    for point in reversed(points[:-1]):
        if cost(point) <= STEP * cost(kept[-1]):
            kept.append(point)
    if len(kept) > 1:
        kept[-1] = min(points, key=cost)
    return kept[::-1]


def _seconds_by_curve(asr: Recognizer) -> Callable[[Compute], float]:
    assert asr.loaded.curve is not None
    seconds = {point.compute: point.seconds_median for point in asr.loaded.curve.points}
    return seconds.__getitem__

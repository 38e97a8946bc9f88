"""Which operating point keeps a latency on this device, and what it costs in errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sewkit.bench.calibration import Calibration, calibrations, require_runs
from sewkit.compute import Compute, operating_points
from sewkit.curve import Curve, MeasuredPoint
from sewkit.errors import UserError
from sewkit.recognizer import Recognizer


@dataclass(frozen=True)
class Plan:
    """A point with the times to expect of it on this device, in seconds."""

    compute: Compute
    median: float
    at_quantile: float
    """Not exceeded with the probability that was asked for."""
    measured: MeasuredPoint | None
    """Its errors; None where no curve is stored with the model."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        rates = None
        if self.measured is not None:
            rates = {name: getattr(self.measured, name) for name in ("wer", "wer_low", "wer_high")}
        return {
            "point": str(self.compute),
            "compute": asdict(self.compute),
            "median_ms": 1e3 * self.median,
            "quantile_ms": 1e3 * self.at_quantile,
            "expected": rates,
        }


@dataclass(frozen=True)
class Budget:
    """A time that a clip may take, for any `compute=`: the point with fewest errors that keeps it is run, see `plan`.

    Clips of `audio_seconds` keep `latency_ms` with probability `quantile`; shorter ones are faster.
    """

    latency_ms: float
    audio_seconds: float = 10.0
    quantile: float = 0.95

    def choose(self, asr: Recognizer) -> Compute:
        """Raises UserError where nothing fits, which says what comes nearest."""
        return plan(asr, self.latency_ms / 1e3, self.audio_seconds, self.quantile).compute


def plan(asr: Recognizer, latency: float, audio_seconds: float, quantile: float = 0.95, runs: int = 20) -> Plan:
    """The point with fewest errors of which a clip of `audio_seconds` takes at most `latency` seconds on this device.

    quantile: with this probability. By the curve stored with the model; without one, the point that computes most.
    The device is calibrated once, with `runs` runs of each point. Raises UserError where nothing fits, which says what
    comes nearest.
    """
    if not 0 < quantile < 1:
        raise UserError(f"--quantile is {quantile:g}; expected a probability between 0 and 1, such as 0.95")
    num_points = len(operating_points(asr.config))
    require_runs(num_points, num_points * runs, quantile)
    plans = estimates(asr, calibrations(asr, audio_seconds, runs), audio_seconds, quantile)
    fitting = [one for one in plans if one.at_quantile <= latency]
    if not fitting:
        nearest = min(plans, key=lambda one: one.at_quantile)
        raise UserError(
            f"nothing fits {1e3 * latency:g} ms for {audio_seconds:g} s of audio at quantile {quantile:g}; the nearest "
            f"is {nearest.compute} with {1e3 * nearest.at_quantile:.1f} ms"
        )
    return best(fitting)


def best(plans: Sequence[Plan]) -> Plan:
    """The one with fewest errors, of equals the fastest; without a curve the last, as they stand cheapest first."""
    measured = [(one.measured.wer, one.at_quantile, index) for index, one in enumerate(plans) if one.measured]
    return plans[min(measured)[-1]] if measured else plans[-1]


def estimates(asr: Recognizer, measured: Sequence[Calibration], audio_seconds: float, quantile: float) -> list[Plan]:
    """Of every point, cheapest by MACs first; times are linear between the lengths that were measured."""
    lengths = [one.clip_seconds for one in measured]
    slowdown = max(one.slowdown(quantile) for one in measured)
    rates = _by_point(asr.loaded.curve)
    plans = []
    for point in operating_points(asr.config):
        median = float(np.interp(audio_seconds, lengths, [one.median(str(point)) for one in measured]))
        plans.append(Plan(point, median, median * slowdown, rates.get(str(point))))
    return plans


def _by_point(curve: Curve | None) -> dict[str, MeasuredPoint]:
    return {} if curve is None else {point.point: point for point in curve.points}

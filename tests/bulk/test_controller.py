"""The controller against simulated machines: the budget is met within 5 %, without running late."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
import pytest

from sewkit.bulk.budget import Budget, parse_time
from sewkit.bulk.controller import MARGIN, Candidate, Controller
from sewkit.bulk.refine import Score, next_wave
from sewkit.compute import Compute
from sewkit.errors import UserError

POINTS = tuple(Candidate(Compute(squeeze), 4.0 / squeeze) for squeeze in (4, 3, 2, 1))


def simulate(
    time_budget: float,
    rate: Callable[[str, float], float],
    decode: float = 0.001,
    lots: int = 200,
    lot_seconds: float = 100.0,
) -> tuple[float, list[str]]:
    """Time that a job of one worker takes, and the points it ran at. rate: of a point at a moment."""
    controller, now, chosen = Controller(POINTS, 1, MARGIN * time_budget), 0.0, []
    for lot in range(lots):
        point = str(controller.choose((lots - lot) * lot_seconds, time_budget - now))
        model, other = rate(point, now) * lot_seconds, decode * lot_seconds
        now += model + other
        controller.observe(point, model, other, lot_seconds)
        chosen.append(point)
    return now, chosen


def true_rate(point: str, now: float = 0.0) -> float:
    return 0.01 / Compute.parse(point).squeeze ** 0.8


@pytest.mark.parametrize("share", [0.45, 0.6, 0.8, 0.95])
def test_the_time_is_used_within_five_per_cent(share: float) -> None:
    whole = 200 * 100 * (true_rate("squeeze=1") + 0.001)
    took, chosen = simulate(share * whole, true_rate)
    assert 0.95 * share * whole <= took <= share * whole
    halves = [sum(Compute.parse(point).squeeze for point in half) / 100 for half in (chosen[:100], chosen[100:])]
    assert halves[0] == pytest.approx(halves[1], abs=0.35), "one half is heard no worse than the other"


def test_the_time_is_kept_when_the_machine_slows_down_in_mid_run() -> None:
    whole = 200 * 100 * (true_rate("squeeze=1") + 0.001)
    took, _ = simulate(0.9 * whole, lambda point, now: true_rate(point) * (1.6 if now > 0.3 * whole else 1.0))
    assert 0.95 * 0.9 * whole <= took <= 0.9 * whole


def test_the_time_is_kept_with_noise_and_wrong_expectations() -> None:
    noise = np.random.default_rng(0)
    whole = 200 * 100 * (true_rate("squeeze=1") + 0.001)
    wrong = {"squeeze=4": 1.5, "squeeze=3": 0.8, "squeeze=2": 1.3, "squeeze=1": 1.0}
    took, _ = simulate(0.8 * whole, lambda point, _: true_rate(point) * wrong[point] * noise.lognormal(0, 0.3))
    assert 0.95 * 0.8 * whole <= took <= 1.0 * 0.8 * whole


def test_with_ample_time_all_but_the_first_lot_run_at_the_best_point() -> None:
    _, chosen = simulate(1e6, true_rate)
    assert set(chosen[1:]) == {"squeeze=1"}


def test_without_enough_time_the_cheapest_point_is_run() -> None:
    _, chosen = simulate(1.0, true_rate)
    assert set(chosen) == {"squeeze=4"}


def test_waves_of_refinement_take_the_least_confident_first_and_end() -> None:
    scores = {f"{number:02d}": Score(number / 20, 10.0, "shard") for number in range(20)}
    assert next_wave(scores, time_left=100.0, time_total=1000.0, cost=1.0) == ["00", "01", "02", "03", "04"]
    assert next_wave(scores, time_left=10.0, time_total=1000.0, cost=1.0) == []
    assert next_wave({}, time_left=100.0, time_total=1000.0, cost=1.0) == []


def test_times_are_understood_as_people_write_them() -> None:
    now = datetime(2030, 1, 31, 20, 0)
    assert parse_time("21:30", now) == datetime(2030, 1, 31, 21, 30).timestamp()
    assert parse_time("06:00", now) == datetime(2030, 2, 1, 6, 0).timestamp()
    assert parse_time("+90m", now) == datetime(2030, 1, 31, 21, 30).timestamp()
    assert parse_time("2030-02-01T06:00", now) == datetime(2030, 2, 1, 6, 0).timestamp()
    for wrong in ("soon", "25:00", "2029-01-01", "+99999999999d", "0001-01-01"):
        with pytest.raises(UserError, match="--finish-by"):
            parse_time(wrong, now)


def test_machine_hours_are_shared_by_machines_and_runs() -> None:
    budget = Budget(began=1000.0, hours=3.0)
    assert budget.deadline(spent_hours=1.0, num_machines=2) == 1000.0 + 3600
    assert Budget(1000.0, finish_by=2000.0).deadline(spent_hours=1.0, num_machines=2) == 2000.0

"""What batches cost: fitted to a calibration, corrected by what is measured, and the ladder that follows."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_load import RUNGS, toy_costs

import sewkit
from sewkit.bench import calibration
from sewkit.checkpoint import save_model
from sewkit.compute import Compute
from sewkit.serve.costs import Cost, Costs, calibrate
from sewkit.serve.ladder import STEP, candidates, rungs, thinned
from sewkit.testing import toy_model
from sewkit.text import Alphabet


@given(fixed=st.floats(0, 0.1), slope=st.floats(1e-4, 0.1))
def test_a_line_is_found_again(fixed, slope):
    sounds = [1.0, 5.0, 10.0]
    cost = Cost.fit(sounds, [fixed + slope * sound for sound in sounds])
    for sound in (1.0, 7.0, 30.0):
        assert cost.seconds(sound) == pytest.approx(fixed + slope * sound, rel=1e-6)


def test_a_cost_never_falls_with_the_sound():
    cost = Cost.fit([1.0, 5.0, 10.0], [0.1, 0.1, 0.09])
    assert cost.per_second > 0
    assert Cost.fit([1.0, 5.0, 10.0], [0.01, 0.2, 0.5]).fixed == 0.0


@pytest.mark.parametrize("slowdown", [0.5, 3.0])
def test_a_device_that_changes_its_speed_is_followed_at_all_points(slowdown):
    costs, truth = toy_costs(), toy_costs()
    for _ in range(60):
        costs.learn(RUNGS[0], 8.0, slowdown * truth.of(RUNGS[0]).seconds(8.0))
    assert costs.of(RUNGS[0]).seconds(8.0) == pytest.approx(slowdown * truth.of(RUNGS[0]).seconds(8.0), rel=0.05)
    assert costs.of(RUNGS[-1]).seconds(8.0) == pytest.approx(slowdown * truth.of(RUNGS[-1]).seconds(8.0), rel=0.35)


def test_one_slow_batch_changes_little():
    costs, truth = toy_costs(), toy_costs()
    costs.learn(RUNGS[0], 8.0, 100.0)
    assert costs.of(RUNGS[0]).seconds(8.0) < 1.3 * truth.of(RUNGS[0]).seconds(8.0)


def test_a_point_that_was_not_calibrated_counts_as_the_dearest():
    costs = toy_costs()
    assert costs.of(Compute(9)) == costs.of(RUNGS[-1])
    costs.learn(Compute(9), 1.0, 1.0)
    assert costs.of(RUNGS[-1]) == toy_costs().of(RUNGS[-1])


def test_calibrating_measures_every_point_and_is_kept(stochastic, monkeypatch):
    points = candidates(stochastic)
    first = calibrate(stochastic, points, 10.0, 1)
    assert all(first.of(point).seconds(10.0) > 0 for point in points)
    asked, logits = set(), stochastic.runtime.logits

    def watched(clips, point):
        asked.add(point)
        return logits(clips, point)

    monkeypatch.setattr(stochastic.runtime, "logits", watched)
    monkeypatch.setattr(calibration, "FAR_QUICKER", math.inf)  # other tests run on this machine
    again = calibrate(stochastic, points, 10.0, 1)
    assert [again.of(point) for point in points] == [first.of(point) for point in points]
    assert len(asked) < len(points)  # the quickest of each length, to see that the times are still true


def test_without_a_curve_rungs_go_by_macs_from_the_cheapest_to_the_dearest(stochastic):
    points = candidates(stochastic)
    assert points[0] == stochastic.resolve("fast")
    assert points[-1] == stochastic.resolve("full")
    assert len(points) > 3


def test_a_fixed_model_has_one_rung(tmp_path):
    save_model(tmp_path / "fixed", toy_model("sew"), Alphabet.english())
    assert candidates(sewkit.load(tmp_path / "fixed")) == [Compute(2)]


@given(costs=st.lists(st.floats(0.1, 10), min_size=1, max_size=12))
def test_every_rung_is_cheaper_than_the_next_by_a_step(costs):
    points = [Compute(number + 1) for number in range(len(costs))]
    table = dict(zip(points, costs, strict=True))
    kept = thinned(points, table.__getitem__)
    assert kept[-1] == points[-1]
    assert all(table[low] <= STEP * table[high] for low, high in itertools.pairwise(kept))


def test_the_lowest_rung_is_the_fastest_on_this_device():
    costs = Costs(
        {Compute(4): Cost(0, 0.03), Compute(3): Cost(0, 0.02), Compute(2): Cost(0, 0.03), Compute(1): Cost(0, 0.04)}
    )
    assert rungs([Compute(4), Compute(3), Compute(2), Compute(1)], costs) == [Compute(3), Compute(2), Compute(1)]

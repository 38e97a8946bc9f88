"""The governor's rule, on numbers alone: properties, and a simulated server under Poisson arrivals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_load import BATCH_SECONDS, PER_SECOND, RUNGS, TARGET, poisson, simulate, toy_costs, toy_governor

from sewkit.compute import Compute
from sewkit.serve.batcher import Entry, next_batch
from sewkit.serve.governor import Arrivals, Waiting

RATIO = PER_SECOND[RUNGS[-1]] / PER_SECOND[RUNGS[0]]
"""Capacity at the cheapest point over that at the dearest, but for what a batch costs beside its sound."""

stretches = st.builds(
    Waiting,
    sound=st.floats(0.1, 30),
    deadline=st.floats(-1, 5),
    fixed=st.sampled_from([None, None, *RUNGS]),
    ceiling=st.sampled_from([None, *RUNGS]),
)
queues = st.lists(stretches, max_size=30)
arrivals = st.lists(st.tuples(st.floats(0.1, 30), st.floats(0, 3)), max_size=30)
"""(seconds of sound, seconds ago)."""


def loaded(history: list[tuple[float, float]], now: float = 10.0):
    governor = toy_governor()
    for sound, age in sorted(history, key=lambda one: -one[1]):
        governor.arrive(sound, now - age)
    return governor


def test_full_compute_when_idle():
    governor = toy_governor()
    assert governor.choose(0.0) == RUNGS[-1]
    governor.arrive(10.0, 0.0)
    assert governor.choose(0.0, [Waiting(10.0, TARGET)]) == RUNGS[-1]


@given(history=arrivals, queue=queues, more=queues)
def test_more_that_waits_never_raises_the_operating_point(history, queue, more):
    now = 10.0
    shifted = [Waiting(one.sound, now + one.deadline, one.fixed, one.ceiling) for one in queue]
    extra = [Waiting(one.sound, now + one.deadline, one.fixed, one.ceiling) for one in more]
    few, many = loaded(history), loaded(history)
    few.choose(now, shifted)
    many.choose(now, shifted + extra)
    assert many.level <= few.level


@given(history=arrivals, more=arrivals, queue=queues)
def test_more_arrivals_never_raise_the_operating_point(history, more, queue):
    now = 10.0
    few, many = loaded(history), loaded(history + more)
    few.choose(now, queue)
    many.choose(now, queue)
    assert many.level <= few.level


@given(history=arrivals, queue=queues)
def test_limits_of_a_request_are_respected_whatever_the_load(history, queue):
    governor = loaded(history)
    governor.choose(10.0, queue)
    for one in queue:
        point = governor.point_for(one)
        if one.fixed is not None:
            assert point == one.fixed
        elif one.ceiling is not None:
            assert RUNGS.index(point) <= RUNGS.index(one.ceiling)
            assert RUNGS.index(point) <= governor.level


@given(sound=st.floats(0.1, 30), seconds=st.floats(0.001, 5))
def test_a_ceiling_is_the_dearest_point_that_keeps_a_limit(sound, seconds):
    governor = toy_governor()
    ceiling = governor.ceiling(sound, seconds)
    costs = [toy_costs().of(point).seconds(sound) for point in RUNGS]
    fitting = [point for point, cost in zip(RUNGS, costs, strict=True) if cost <= seconds]
    assert ceiling == (fitting[-1] if fitting else RUNGS[0])


def test_a_crowd_brings_the_cheapest_point_and_its_end_the_dearest_within_seconds():
    governor = toy_governor()
    crowd = [Waiting(8.0, TARGET) for _ in range(40)]
    for one in crowd:
        governor.arrive(one.sound, 0.0)
    assert governor.choose(0.0, crowd) == RUNGS[0]
    seen = [governor.choose(time) for time in np.arange(0.1, 20, 0.1)]
    levels = [RUNGS.index(point) for point in seen]
    assert levels == sorted(levels), "once the load falls, the point only rises"
    assert seen[-1] == RUNGS[-1]


def test_a_dearer_point_has_to_be_affordable_for_a_while():
    governor = toy_governor()
    governor.choose(0.0, [Waiting(30.0, TARGET) for _ in range(3)])
    down = governor.level
    assert down < len(RUNGS) - 1
    governor.choose(1.9)
    assert governor.level == down
    governor.choose(2.1)
    assert governor.level == len(RUNGS) - 1


def test_what_is_late_already_does_not_hold_the_point_down_once_little_waits():
    governor = toy_governor()
    assert governor.choose(10.0, [Waiting(2.0, deadline=5.0)]) == RUNGS[-1]
    assert governor.choose(10.0, [Waiting(20.0, deadline=5.0)] * 3) == RUNGS[0]


def test_a_request_alone_does_not_count_as_a_crowd():
    arrivals = Arrivals(window=4.0)
    arrivals.add(10.0, 0.0)
    assert arrivals.rate(0.0) == 2.5
    assert arrivals.rate(4.0) == pytest.approx(2.5 / np.e)


@pytest.mark.parametrize("load", [0.25, 0.5])
def test_light_load_runs_at_full_compute(load):
    served = simulate(toy_governor(), poisson(load, 60))
    assert served.points[RUNGS[-1]] > 0.95 * served.points.total()
    assert served.p95() < TARGET


@pytest.mark.parametrize("load", [1.0, 2.0, 0.8 * RATIO])
def test_the_objective_holds_under_loads_that_break_a_fixed_point(load):
    arrivals = poisson(load, 60)
    governed, fixed = simulate(toy_governor(), arrivals), simulate(toy_governor(RUNGS[-1:]), arrivals)
    assert governed.p95() < TARGET < fixed.p95()
    assert len(governed.latencies) == len(arrivals)
    assert not np.isnan(governed.latencies).any()


@pytest.mark.parametrize("load", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_under_steady_load_it_does_not_flap(load):
    seconds = 60
    served = simulate(toy_governor(), poisson(load, seconds))
    assert len(served.switches) <= seconds / 4, "at most one way up in twice `hold`, and one down for each"


def test_between_the_ends_it_settles_on_points_between():
    served = simulate(toy_governor(), poisson(1.5, 60))
    assert served.points[Compute(3)] + served.points[Compute(2)] > 0.8 * served.points.total()


def test_after_a_burst_full_compute_is_back_within_seconds():
    burst = poisson(3.0, 10)
    after = [(10 + time, sound) for time, sound in poisson(0.2, 30, seed=5)]
    governor = toy_governor()
    simulate(governor, burst + [one for one in after if one[0] < 25])
    assert governor.point == RUNGS[-1]


def test_arrivals_at_fixed_points_take_from_what_the_others_get():
    free, crowded = toy_governor(), toy_governor()
    for time in np.arange(0, 10, 0.25):
        free.arrive(2.0, time)
        crowded.arrive(2.0, time)
        crowded.arrive(6.0, time, fixed=RUNGS[-1])
    assert RUNGS.index(crowded.choose(10.0)) < RUNGS.index(free.choose(10.0))


# Batches


def entries(*sounds: float, deadline: float = TARGET, **facts) -> list[Entry[int]]:
    return [Entry(index, Waiting(sound, deadline + index * 1e-3, **facts)) for index, sound in enumerate(sounds)]


def test_a_batch_joins_what_is_about_as_long_within_its_size():
    batch = next_batch(entries(2.0, 9.0, 2.1, 1.9, 2.0, 2.0), toy_governor(), BATCH_SECONDS, 0.0)
    assert batch.items == [0, 2, 3, 4]
    assert batch.sound == pytest.approx(4 * 2.1)


def test_the_most_urgent_leads():
    late = [Entry("long", Waiting(9.0, 5.0)), Entry("short", Waiting(1.0, 0.5))]
    assert next_batch(late, toy_governor(), BATCH_SECONDS, 0.0).items == ["short"]


def test_items_of_other_points_and_lone_ones_wait_for_their_own_batch():
    mixed = [*entries(2.0, 2.0), Entry(7, Waiting(2.0, TARGET, fixed=RUNGS[0])), Entry(8, Waiting(2.0, 2.0), True)]
    batch = next_batch(mixed, toy_governor(), BATCH_SECONDS, 0.0)
    assert batch.items == [0, 1]
    assert next_batch(mixed[2:3], toy_governor(), BATCH_SECONDS, 0.0).point == RUNGS[0]
    assert next_batch(mixed[3:], toy_governor(), BATCH_SECONDS, 0.0).items == [8]


def test_joining_does_not_make_the_leader_late():
    # Alone, two seconds take 84 ms at the dearest point; with one beside it 164 ms.
    leader = Entry("leader", Waiting(2.0, 0.130, fixed=RUNGS[-1]))
    joining = Entry("joining", Waiting(2.0, 0.5, fixed=RUNGS[-1]))
    assert next_batch([leader, joining], toy_governor(), BATCH_SECONDS, 0.0).items == ["leader"]
    assert next_batch([leader, joining], toy_governor(), BATCH_SECONDS, 1.0).items == ["leader", "joining"]


@given(queue=st.lists(stretches, min_size=1, max_size=20), now=st.floats(0, 5))
def test_every_batch_has_the_most_urgent_one_and_keeps_its_size(queue, now):
    waiting = [Entry(index, one) for index, one in enumerate(queue)]
    batch = next_batch(waiting, toy_governor(), BATCH_SECONDS, now)
    first = min(waiting, key=lambda entry: entry.waiting.deadline)
    assert first.item in batch.items
    assert batch.sound <= max(BATCH_SECONDS, first.waiting.sound)
    assert len(set(batch.items)) == len(batch.items)


def test_nothing_waits_nothing_runs():
    assert next_batch([], toy_governor(), BATCH_SECONDS, 0.0) is None

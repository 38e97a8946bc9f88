"""A server without a model: arrivals, batches and the governor on a clock of their own."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from sewkit.compute import Compute
from sewkit.serve.batcher import Entry, next_batch
from sewkit.serve.costs import Cost, Costs
from sewkit.serve.governor import Governor, Waiting

RUNGS = (Compute(4), Compute(3), Compute(2), Compute(1))
"""Cheapest first; the dearest computes four times as much as the cheapest."""
PER_SECOND = {Compute(4): 0.01, Compute(3): 0.016, Compute(2): 0.026, Compute(1): 0.04}
BATCH_SECONDS = 10.0
TARGET = 1.0


def toy_costs(fixed: float = 0.004) -> Costs:
    return Costs({point: Cost(fixed, slope) for point, slope in PER_SECOND.items()})


def toy_governor(rungs: tuple[Compute, ...] = RUNGS, target: float = TARGET) -> Governor:
    return Governor(rungs, toy_costs(), target, BATCH_SECONDS, window=4.0, hold=2.0)


@dataclass
class Served:
    """What became of the arrivals of a simulated server."""

    latencies: list[float] = field(default_factory=list)
    points: Counter[Compute] = field(default_factory=Counter)
    switches: list[float] = field(default_factory=list)
    """When the governor changed its mind."""

    def p95(self, first: int = 0) -> float:
        return float(np.quantile(self.latencies[first:], 0.95))


def poisson(load: float, seconds: float, seed: int = 0, mean_sound: float = 4.0) -> list[tuple[float, float]]:
    """(time, seconds of sound) of arrivals at `load` times what the dearest point can do."""
    random = np.random.default_rng(seed)
    rate = load / (mean_sound * PER_SECOND[RUNGS[-1]])
    times = np.cumsum(random.exponential(1 / rate, int(2 * rate * seconds) + 20))
    sounds = random.uniform(0.25 * mean_sound, 1.75 * mean_sound, len(times))
    return [(float(time), float(sound)) for time, sound in zip(times, sounds, strict=True) if time < seconds]


def simulate(governor: Governor, arrivals: list[tuple[float, float]], seed: int = 1, jitter: float = 0.1) -> Served:
    """Serve the arrivals in batches; a batch takes what its point costs, and by chance more or less."""
    random, served = np.random.default_rng(seed), Served()
    waiting: list[Entry[tuple[float, float]]] = []
    true_costs, now, next_index, level = toy_costs(), 0.0, 0, governor.level
    served.latencies = [float("nan")] * len(arrivals)
    while next_index < len(arrivals) or waiting:
        while next_index < len(arrivals) and arrivals[next_index][0] <= now:
            time, sound = arrivals[next_index]
            governor.arrive(sound, time)
            waiting.append(Entry((next_index, time), Waiting(sound, time + governor.target)))
            next_index += 1
        batch = next_batch(waiting, governor, BATCH_SECONDS, now)
        if governor.level != level:
            level = governor.level
            served.switches.append(now)
        if batch is None:
            now = arrivals[next_index][0]
            continue
        chosen = {item[0] for item in batch.items}
        waiting = [entry for entry in waiting if entry.item[0] not in chosen]
        seconds = true_costs.of(batch.point).seconds(batch.sound) * random.lognormal(0, jitter)
        governor.costs.learn(batch.point, batch.sound, seconds)
        now += seconds
        for index, time in batch.items:
            served.latencies[index] = now - time
            served.points[batch.point] += 1
    return served

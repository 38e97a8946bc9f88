"""Models x operating points x lengths x batch sizes, each case run by all systems in turn: `sewkit bench speed`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.bench import rate
from sewkit.bench.exports import normalized
from sewkit.bench.footprint import footprint_mib
from sewkit.bench.subject import Subject, prepare
from sewkit.bench.systems import Case, Forward, System
from sewkit.bench.timing import PAUSE, environment, interleaved, ratio, spread
from sewkit.checkpoint import load_model
from sewkit.compute import macs
from sewkit.testing import synthetic_speech


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    models: Sequence[str]
    systems: Sequence[System]
    seconds: Sequence[float] = (10.0,)
    batch_sizes: Sequence[int] = (1,)
    points: Sequence[str | None] = (None,)
    runs: int = 10
    device: str = "cpu"
    with_memory: bool = True

    @property
    def num_calls(self) -> int:
        """Warm-up included; what turns out to be unavailable counts too."""
        cases = len(self.models) * len(self.seconds) * len(self.batch_sizes) * len(self.points)
        return cases * len(self.systems) * (self.runs + 1)


@dataclass
class Report:
    """A row for each system and case, and a line for each that could not be run."""

    environment: dict[str, Any] = field(default_factory=environment)
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def measure(
    plan: Plan,
    on_calls: Callable[[int], None] = lambda count: None,
    on_skip: Callable[[str], None] = lambda line: None,
) -> Report:
    """Runs the plan. Hears of calls made, and of what is skipped, at once. Raises UserError for models and points."""
    report = Report()
    with ExitStack() as stack:
        for model, point in product(plan.models, plan.points):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sewkit-bench-")))
            subject = prepare(model, point, folder)
            for seconds, batch_size in product(plan.seconds, plan.batch_sizes):
                case = Case(subject, _waveforms(seconds, batch_size), plan.device, torch.get_num_threads())
                forwards = dict(_built(plan, case, report, on_calls, on_skip))
                report.rows += _measured(plan, case, forwards, on_calls)
    return report


def _waveforms(seconds: float, batch_size: int) -> np.ndarray:
    samples = int(seconds * SAMPLE_RATE)
    return np.stack([normalized(synthetic_speech(samples, seed)) for seed in range(batch_size)])


def _built(
    plan: Plan, case: Case, report: Report, on_calls: Callable[[int], None], on_skip: Callable[[str], None]
) -> Iterator[tuple[System, Forward]]:
    """The systems that run the case, tried once. Peers fail in many ways, none of which ends the rest."""
    for system in plan.systems:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of compilers and exporters
                case.require(system.precision)
                forward = system.build(case)
                forward()
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            line = f"{case.subject.name}: {system.label} skipped: {reason}"
            if line not in report.skipped:
                report.skipped.append(line)
                on_skip(line)
            on_calls(plan.runs + 1)
        else:
            yield system, forward


def _measured(
    plan: Plan, case: Case, forwards: dict[System, Forward], on_calls: Callable[[int], None]
) -> Iterator[dict[str, Any]]:
    calls: dict[str, Forward] = {system.label: forward for system, forward in forwards.items()}
    precisions = dict.fromkeys(system.precision for system in forwards)
    calls |= {_rate_of(precision): rate.product(precision, plan.device) for precision in precisions}
    times = interleaved(calls, plan.runs, PAUSE, lambda: on_calls(1))
    peers = _Peers(list(forwards), times)
    for system in forwards:
        row = _row(case, system, times[system.label], times[_rate_of(system.precision)])
        row |= peers.compared(system)
        row["peak_mib"] = footprint_mib(system.label, case) if plan.with_memory and plan.device == "cpu" else None
        yield row


def _rate_of(precision: str) -> str:
    return f"rate {precision}"


def _row(case: Case, system: System, seconds: list[float], rate_seconds: list[float]) -> dict[str, Any]:
    batch_size, num_samples = case.waveforms.shape
    audio = batch_size * num_samples / SAMPLE_RATE
    times, cost = (
        spread(seconds),
        batch_size * sum(macs(_config(case.subject), num_samples, case.subject.point).values()),
    )
    achieved = 2 * cost / times["median"]
    possible = rate.OPERATIONS / min(rate_seconds)
    return {
        "model": case.subject.name,
        "point": str(case.subject.point),
        "system": system.name,
        "precision": system.precision,
        "is_peer": system.is_peer,
        "seconds": num_samples / SAMPLE_RATE,
        "batch_size": batch_size,
        "runs": len(seconds),
        **{f"{name}_ms": 1e3 * value for name, value in times.items()},
        "real_time_factor": times["median"] / audio,
        "times_real_time": audio / times["median"],
        "macs": cost,
        "gflops": achieved / 1e9,
        "matrix_rate_gflops": possible / 1e9,
        "share_of_matrix_rate": achieved / possible,
    }


def _config(subject: Subject) -> Any:
    return load_model(subject.model).model.config


class _Peers:
    """The fastest peer of each precision, and transformers' fastest setting in float32."""

    def __init__(self, systems: list[System], times: dict[str, list[float]]):
        self._times = times
        self._peers = [system for system in systems if system.is_peer]

    def compared(self, system: System) -> dict[str, Any]:
        """How many times as fast a system is, by the median of pairs of runs; None without such a peer."""
        same = self._fastest(lambda peer: peer.precision == system.precision)
        reference = self._fastest(lambda peer: peer.precision == "fp32" and peer.name.startswith("transformers"))
        return {
            "fastest_peer": None if same is None else same.name,
            "times_fastest_peer": self._ratio(same, system),
            "times_transformers_fp32": self._ratio(reference, system),
        }

    def _fastest(self, is_meant: Callable[[System], bool]) -> System | None:
        meant = [peer for peer in self._peers if is_meant(peer)]
        return min(meant, key=lambda peer: spread(self._times[peer.label])["median"], default=None)

    def _ratio(self, peer: System | None, system: System) -> float | None:
        return None if peer is None else ratio(self._times[peer.label], self._times[system.label])

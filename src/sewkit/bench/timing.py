"""Timing of whole calls, interleaved so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def interleaved(calls: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each call, run in turn `runs` times after one warm-up round: A B A B ..."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if run > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def ratio(peer: list[float], ours: list[float]) -> float:
    """Median of the pair-by-pair ratios of interleaved runs: how many times faster we are."""
    return statistics.median(theirs / mine for theirs, mine in zip(peer, ours, strict=True))


def environment() -> dict[str, Any]:
    """What a figure depends on beside the code."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

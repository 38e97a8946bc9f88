"""Timing of whole calls, interleaved so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from typing import Any

import numpy as np
import torch

PAUSE = 0.02
"""Seconds between calls: longer than the threads of any runtime wait for more work before they let go of the core."""


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    runs: int,
    pause: float = 0.0,
    on_call: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call, run in turn `runs` times after one warm-up round: A B A B ...

    pause: seconds before each, in which the threads of the one before stop waiting for more. on_call: hears of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            time.sleep(pause)
            start = time.perf_counter()
            call()
            if run > 0:
                seconds[name].append(time.perf_counter() - start)
            if on_call is not None:
                on_call()
    return seconds


def summary(seconds: list[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(seconds), "median": statistics.median(seconds), "max": max(seconds)}


def spread(seconds: list[float]) -> dict[str, float]:
    """The same with the quartiles."""
    low, high = np.quantile(seconds, (0.25, 0.75))
    return {**summary(seconds), "quartile_1": float(low), "quartile_3": float(high)}


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
        "versions": _versions(),
        "memory_gib": _memory_gib(),
        "date": time.strftime("%Y-%m-%d"),
    }


PACKAGES = ("sewkit", "transformers", "onnxruntime", "openvino", "nncf", "ctranslate2", "numpy")
"""Whose versions figures depend on, where they are installed."""


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

"""The most memory that is held during a call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def peak_mib(call: Callable[[], object], device: torch.device) -> float | None:
    """Of the process, model and libraries included; on a GPU of its tensors. None where the system does not say.

    What an allocator keeps from calls before counts too, so measure small calls before large ones.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) / 2**20
    is_reset = _reset_peak()
    call()
    return _peak() if is_reset else None


def _reset_peak() -> bool:
    """Linux only: from now on the peak is counted anew."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak() -> float | None:
    try:
        lines = (_PROCESS / "status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM")), None)

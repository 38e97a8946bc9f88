"""How fast this machine multiplies matrices at a precision: what shares of the machine are shares of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SIZE, REPEATS = 1024, 4
"""Products of two square matrices, a few in a row: small enough for the caches, large enough for the threads."""
OPERATIONS = 2 * SIZE**3 * REPEATS


def product(precision: str, device: str = "cpu") -> Callable[[], object]:
    """A function that does `OPERATIONS` operations at a precision, with the threads that torch has."""
    left, right = (_matrix(precision).to(device) for _ in range(2))
    multiply = torch._int_mm if precision == "int8" else torch.mm

    @torch.inference_mode()
    def run() -> None:
        for _ in range(REPEATS):
            multiply(left, right)
        if device != "cpu":
            torch.accelerator.synchronize()

    return run


def _matrix(precision: str) -> Tensor:
    if precision == "int8":
        return torch.randint(-128, 128, (SIZE, SIZE), dtype=torch.int8)
    return torch.randn(SIZE, SIZE).to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision])

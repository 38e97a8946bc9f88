"""Sums over the processes of a training run, for what must be the same whether a batch is split among them or not.

With one process everything here is the identity. A collective call waits for every process: make it in training only,
where all of them take part, never in evaluation, which the first may do alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed


def num_processes() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of every process's `x`, of any one shape. Differentiable; works with gloo and nccl.

    Its gradient is right for a loss that is itself summed over the processes.
    """
    return _Sum.apply(x) if num_processes() > 1 else x


class _Sum(torch.autograd.Function):
    """Each process's output depends on every process's input, so the gradient is a sum over them too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return sum_over_processes(gradient)

"""Several processes on one update: sums of gradients over the processes that `torchrun` started, if it did."""

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed, nn


def start() -> None:
    """Join the other processes where torchrun's variables are set; do nothing otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("gloo", timeout=timedelta(minutes=30))


def rank_and_world() -> tuple[int, int]:
    """(number of this process, how many there are)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process writes the files."""
    return rank_and_world()[0] == 0


def sum_gradients(parameters: Sequence[nn.Parameter], loss: float) -> float:
    """Sum gradients in place over the processes, as one message; returns the sum of the losses.

    A parameter that had no part (the mask vector in a batch without masks) counts zeros.
    """
    if rank_and_world()[1] == 1:
        return loss
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    message = torch.cat([*(gradient.flatten() for gradient in gradients), torch.tensor([loss])])
    distributed.all_reduce(message)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, total in zip(parameters, message[:-1].split(sizes), strict=True):
        parameter.grad = total.view_as(parameter)
    return float(message[-1])

"""Several processes on one update: torchrun starts them, DistributedDataParallel sums their gradients.

Gloo on CPUs, nccl on GPUs. On two cores, two processes of one thread each beat one process of two threads.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sewkit.errors import UserError

TIMEOUT = timedelta(minutes=30)
"""Of a collective operation: the first process measures the dev sets while the others wait."""

_WORDS = signature(DistributedDataParallel).parameters
_BUFFERS_STAY: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _WORDS else "broadcast_buffers": False  # before torch 2.13
}


def start(device: torch.device) -> None:
    """Join the other processes where torchrun's variables are set; do nothing otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)


def stop() -> None:
    """Leave the other processes."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def choose_device(name: str = "auto") -> torch.device:
    """The device of this process; `auto` takes its own GPU of the machine, or the CPU where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return device
    return torch.device(name)


def rank_and_world() -> tuple[int, int]:
    """(number of this process, how many there are)."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process measures, logs and writes the files."""
    return rank_and_world()[0] == 0


def check_agreement(position: tuple[int, int]) -> None:
    """Raise UserError unless all processes start at the same (stage, update): they read their states themselves."""
    world = rank_and_world()[1]
    if world == 1:
        return
    positions: list[tuple[int, int] | None] = [None] * world
    distributed.all_gather_object(positions, position)
    if len(set(positions)) > 1:
        raise UserError(
            f"the processes found states of different (stage, update): {', '.join(map(str, positions))}; "
            "the output must be one folder that every machine sees"
        )


def wrap(objective: nn.Module) -> nn.Module:
    """The objective with its gradients averaged over the processes; itself in a single one.

    Parameters may go without a gradient (LayerDrop, the mask vector in a batch without masks): they are looked for,
    and count zeros where another process has one. Buffers are not sent: batch-norm statistics are reduced where they
    are made. Wrap again when other parameters need gradients.
    """
    if rank_and_world()[1] == 1:
        return objective
    return DistributedDataParallel(
        objective, find_unused_parameters=True, gradient_as_bucket_view=True, **_BUFFERS_STAY
    )


def exchange(module: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Around one micro-batch: gradients are exchanged with the last one of an update only."""
    return nullcontext() if now or not isinstance(module, DistributedDataParallel) else module.no_sync()

"""What a killed run needs to go on: one file, written atomically.

Randomness is a function of (seed, stage, update), so no generator state is stored.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sewkit.errors import UserError


@dataclass(kw_only=True)
class TrainState:
    """Position and weights of a run."""

    stage: int = 0
    update: int = 0
    """Updates done in this stage."""
    model: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    """Exponential moving average of the weights; empty where the recipe wants none."""
    num_averaged: int = 0
    """Updates in it."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    """Weights of a stage's own head, dropped with the stage."""
    skipped: int = 0
    """Updates left out because the loss was not finite."""


def save_state(state: TrainState, path: Path) -> None:
    """Write under a temporary name, flush to disk, then rename: a kill leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("wb") as file:
        torch.save({"format": 1, **vars(state)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_state(path: Path) -> TrainState:
    """Read what `save_state` wrote; tensors and plain values only, no pickled code runs."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a readable training state ({str(error).splitlines()[0]})") from error
    if not isinstance(stored, dict) or stored.pop("format", None) != 1:
        raise UserError(f"{path}: not a training state of this version; start again without --resume")
    return TrainState(**stored)

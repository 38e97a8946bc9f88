"""The mean of models' weights: of runs from one start that differ in their seeds (model soups, arXiv 2203.05482).

Takes the place of fairseq's `scripts/average_checkpoints.py`, between runs; within one, see `average_decay` of recipes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from sewkit.checkpoint.errors import CheckpointError
from sewkit.checkpoint.loaded import LoadedModel
from sewkit.checkpoint.loading import load_model, with_weights
from sewkit.checkpoint.saving import new_folder, save_loaded


def average(
    sources: Sequence[str | os.PathLike[str]], folder: str | os.PathLike[str], *, half: bool = False
) -> LoadedModel:
    """Read models of one shape and write the mean of their weights to a new folder; gives back what was written.

    Of a stochastic model no measured curve is kept. half: store the weights in half precision.
    Raises CheckpointError for fewer than two models, and for one of another shape or with other letters or classes
    than the first; then nothing has been written.
    """
    if len(sources) < 2:
        raise CheckpointError(f"{len(sources)} model to average; expected two or more")
    target = new_folder(folder)
    first, *others = sources
    mean = replace(with_weights(load_model(first)), curve=None)
    total = {name: weights.double() for name, weights in mean.model.state_dict().items()}
    for source in others:
        loaded = with_weights(load_model(source))
        for what in ("alphabet", "labels"):
            if getattr(loaded, what) != getattr(mean, what):
                raise CheckpointError(f"{source}: has another {what} than {first}; expected runs from one start")
        if loaded.model.config.replace(dropout=mean.model.config.dropout) != mean.model.config:
            raise CheckpointError(f"{source}: is of another shape than {first}; expected runs from one start")
        for name, weights in loaded.model.state_dict().items():
            total[name] += weights
    mean.model.load_state_dict({name: weights / len(sources) for name, weights in total.items()})
    save_loaded(target, mean, dtype=torch.float16 if half else torch.float32)
    return mean

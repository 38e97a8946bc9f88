"""Operating points in training: one drawn for each micro-batch, or a single one (stochastic compression, 2204.11934).

`compute: all` trains a stochastic model at all its points. `compute: squeeze=3` makes a fixed model of it first, with
the weights of that point, and trains that. `stochastic: {}` makes the fixed model of `init` stochastic first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sewkit.compute import draw_compute
from sewkit.config import ModelConfig
from sewkit.data.batch import Batch
from sewkit.model import SpeechModel
from sewkit.model.stochastic import make_stochastic, specialise, specialised
from sewkit.train.recipe import ALL_POINTS, RunRecipe


def model_for(recipe: RunRecipe, start: SpeechModel) -> SpeechModel:
    """The model of `init` with the operating points that the recipe wants."""
    if recipe.stochastic is not None:
        start = make_stochastic(start, recipe.stochastic)
    return start if recipe.compute == ALL_POINTS else specialise(start, recipe.compute)


def config_for(recipe: RunRecipe, config: ModelConfig) -> ModelConfig:
    """The same of a new model."""
    return config if recipe.compute == ALL_POINTS else specialised(config, recipe.compute)


class DrawnPoints:
    """Callable: update -> the micro-batches of `batches`, each to be trained at a point of its own.

    A point depends on seed, update and the number of the micro-batch within its process, so all processes train at
    the same one at the same time, and none waits for another. It lies in the batch, so a run that is resumed draws it
    again. Micro-batches of a fixed model are left as they are.
    """

    def __init__(
        self, batches: Callable[[int], list[Batch]], config: ModelConfig, seed: int, per_layer: bool = False
    ) -> None:
        self.batches = batches
        self.config = config
        self.seed = seed
        self.per_layer = per_layer

    def __call__(self, update: int) -> list[Batch]:
        """The same for the same (seed, update)."""
        batches = self.batches(update)
        if not self.config.is_stochastic:
            return batches
        return [
            replace(batch, compute=draw_compute(self.config, self.seed, update, index, self.per_layer))
            for index, batch in enumerate(batches)
        ]

"""Operating points in training: one drawn for each micro-batch, or a single one (stochastic compression, 2204.11934).

`compute: all` trains a stochastic model at all its points. `compute: squeeze=3` makes a fixed model of it first, with
the weights of that point, and trains that. `stochastic: {}` makes the fixed model of `init` stochastic first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sewkit.compute import Compute, draw_compute, resolve
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


def points_to_measure(recipe: RunRecipe, config: ModelConfig) -> dict[str, Compute]:
    """{what is put behind a metric's name: point}: nothing for the dearest, "@squeeze=4" for one of `validate_at`.

    Raises UserError for a point that the model lacks.
    """
    points = {f"@{text}": resolve(config, text) for text in recipe.validate_at}
    return {"": resolve(config, None), **points}


class DrawnPoints:
    """Callable: update -> the micro-batches of `batches`, each to be trained at a point of its own.

    A point depends on seed, update and the number of the micro-batch within its process, so all processes train at
    the same one at the same time, and none waits for another. It lies in the batch, so a run that is resumed draws it
    again. Micro-batches of a fixed model are left as they are.

    one_per_update: all micro-batches of an update have the first one's point. For those that are shared out to
    processes whole, as lanes of strings are, so that what one process and several compute is the same.
    """

    def __init__(
        self,
        batches: Callable[[int], list[Batch]],
        config: ModelConfig,
        seed: int,
        per_layer: bool = False,
        one_per_update: bool = False,
    ) -> None:
        self.batches = batches
        self.config = config
        self.seed = seed
        self.per_layer = per_layer
        self.one_per_update = one_per_update

    def __call__(self, update: int) -> list[Batch]:
        """The same for the same (seed, update)."""
        batches = self.batches(update)
        if not self.config.is_stochastic:
            return batches
        numbers = [0 if self.one_per_update else index for index in range(len(batches))]
        return [
            replace(batch, compute=draw_compute(self.config, self.seed, update, number, self.per_layer))
            for number, batch in zip(numbers, batches, strict=True)
        ]

"""Error rates or accuracies on a recipe's dev sets while it trains: greedy, at the operating points that it names."""

import numpy as np
import torch
from torch import Tensor

from sewkit.audio import SAMPLE_RATE
from sewkit.checkpoint.loaded import LoadedModel
from sewkit.compute import Compute
from sewkit.data.batch import make_batch
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.evaluate.classification import class_ids, label_of
from sewkit.evaluate.wer import letter_errors, rate_of, word_errors
from sewkit.lengths import informed_length
from sewkit.train.loop import Precision, autocast, precision_on
from sewkit.train.points import points_to_measure
from sewkit.train.recipe import FinetuneRecipe
from sewkit.train.rows import read_dev_path

BATCH_SECONDS = 60.0
"""Padded sound measured at a time; it is read when it is needed, so a dev set may be of any size."""


class Validation:
    """Callable: {"wer_NAME": rate, "cer_NAME": rate} of each dev set, or {"accuracy_NAME": share} of a classifier.

    That is at the dearest operating point; at those of the recipe's `validate_at` it is "wer_NAME@POINT".
    """

    def __init__(self, recipe: FinetuneRecipe, task: LoadedModel, device: torch.device) -> None:
        self.task = task
        self.device = device
        self.precision: Precision = precision_on(device, recipe.precision)
        self.points = points_to_measure(recipe, task.model.config)
        self.sets: dict[str, list[Utterance]] = {}
        for dev in recipe.dev:
            path, root = read_dev_path(recipe, dev)
            rows = read_manifest(path, split=dev.split, root=root, labelled=task.labels is None)
            self.sets[dev.name] = sorted(rows, key=lambda row: -row.duration)
            load_utterance(self.sets[dev.name][0])  # recordings that lie elsewhere are an error now, not in an hour

    def __call__(self) -> dict[str, float]:
        """Measure the model as it is now."""
        measure = self._accuracy if self.task.labels is not None else self._error_rates
        return {
            f"{metric}_{name}{suffix}": rate
            for suffix, point in self.points.items()
            for name, rows in self.sets.items()
            for metric, rate in measure(rows, point).items()
        }

    def _error_rates(self, rows: list[Utterance], point: Compute) -> dict[str, float]:
        alphabet = self.task.alphabet
        assert alphabet is not None
        texts = [alphabet.collapse(best.tolist()) for best in self._best(rows, point)]
        references = [row.text for row in rows]
        return {"wer": rate_of(word_errors(references, texts)), "cer": rate_of(letter_errors(references, texts))}

    def _accuracy(self, rows: list[Utterance], point: Compute) -> dict[str, float]:
        labels, column = self.task.labels, self.task.label_column
        assert labels is not None
        assert column is not None
        wanted = class_ids(labels, [label_of(row, column) for row in rows])
        right = [int(best) == one for best, one in zip(self._best(rows, point), wanted, strict=True)]
        return {"accuracy": sum(right) / len(right)}

    def _best(self, rows: list[Utterance], point: Compute) -> list[Tensor]:
        """The likeliest label of each frame, (T,), or of the whole row, ()."""
        best: list[Tensor] = []
        while len(best) < len(rows):
            count = max(1, int(BATCH_SECONDS / max(rows[len(best)].duration, 1e-3)))
            waveforms = [load_utterance(row) for row in rows[len(best) : len(best) + count]]
            best += self._best_of_batch(waveforms, point)
        return best

    def _best_of_batch(self, waveforms: list[np.ndarray], point: Compute) -> list[Tensor]:
        batch = make_batch(waveforms, [""] * len(waveforms), None, pad_to=SAMPLE_RATE // 10).to(self.device)
        with autocast(self.device, self.precision):
            scores, frame_lengths = self.task.model(batch.waveforms, batch.sample_lengths, point)
        best = scores.argmax(dim=-1).cpu()
        if best.ndim == 1:
            return list(best)
        heard = informed_length(frame_lengths, point.squeeze).tolist()  # recognition leaves out SEW's zero tail too
        return [row[:length] for row, length in zip(best, heard, strict=True)]

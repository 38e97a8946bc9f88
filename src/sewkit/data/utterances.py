"""Batches of ordinary manifest utterances by seconds of padded audio, as a function of (seed, update).

An epoch sorts the utterances by duration with a little noise, cuts them into batches and shuffles the batches, so that
little is padding and every utterance appears once an epoch.
"""

from functools import lru_cache

import numpy as np

from sewkit.data.augment import Augmenter
from sewkit.data.batch import Batch, make_batch
from sewkit.data.manifest import ManifestError, Utterance, load_utterance
from sewkit.text import Alphabet


def batches_of_epoch(durations: np.ndarray, batch_seconds: float, generator: np.random.Generator) -> list[np.ndarray]:
    """(N,) seconds -> index arrays in random order; longest x count of each is at most `batch_seconds` or one clip."""
    order = np.argsort(durations * generator.uniform(0.95, 1.05, size=durations.size))
    batches: list[list[int]] = [[]]
    longest = 0.0
    for index in order:
        longest = max(longest, float(durations[index]))
        if batches[-1] and longest * (len(batches[-1]) + 1) > batch_seconds:
            batches.append([])
            longest = float(durations[index])
        batches[-1].append(int(index))
    return [np.array(batches[place]) for place in generator.permutation(len(batches))]


class UtteranceBatches:
    """Callable: update -> Batch."""

    def __init__(
        self,
        utterances: list[Utterance],
        batch_seconds: float,
        augmenter: Augmenter,
        alphabet: Alphabet,
        seed: int,
        max_seconds: float = 30.0,
    ) -> None:
        self.utterances = [row for row in utterances if 0 < row.duration <= max_seconds]
        if not self.utterances:
            raise ManifestError(f"no utterance of at most {max_seconds} seconds among {len(utterances)}")
        self.durations = np.array([row.duration for row in self.utterances])
        self.batch_seconds = batch_seconds
        self.augmenter = augmenter
        self.alphabet = alphabet
        self.seed = seed
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)

    def _draw_epoch(self, epoch: int) -> list[np.ndarray]:
        return batches_of_epoch(self.durations, self.batch_seconds, np.random.default_rng((self.seed, 1, epoch)))

    def _place(self, update: int) -> np.ndarray:
        """Indices of an update's utterances; epochs differ a little in their number of batches."""
        epoch = 0
        while update >= len(self._epoch(epoch)):
            update -= len(self._epoch(epoch))
            epoch += 1
        return self._epoch(epoch)[update]

    def __call__(self, update: int) -> Batch:
        """The batch of an update: the same for the same (seed, update)."""
        generator = np.random.default_rng((self.seed, 2, update))
        rows = [self.utterances[index] for index in self._place(update)]
        waveforms = [self._augmented(row, generator) for row in rows]
        return make_batch(waveforms, [row.text for row in rows], self.alphabet)

    def _augmented(self, row: Utterance, generator: np.random.Generator) -> np.ndarray:
        speed = self.augmenter.draw_speed(self.augmenter.settings.string_speed, generator)
        return self.augmenter.string(self.augmenter.word(load_utterance(row), generator, speed), generator)

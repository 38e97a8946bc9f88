"""Batches of whole utterances, for fine-tuning: a function of (seed, update) that processes and devices share out.

What an update computes depends on neither. A process takes every `world`-th row of it, longest first, and cuts its
share into micro-batches that fit its device.
"""

from collections.abc import Sequence

import numpy as np

from sewkit.data.augment import Augmenter
from sewkit.data.batch import Batch, make_batch, row_seeds
from sewkit.data.buckets import Groups
from sewkit.data.manifest import Manifest, Utterance, load_utterance
from sewkit.data.reading import Reader
from sewkit.text import Alphabet


def durations_of(rows: Sequence[Utterance]) -> np.ndarray:
    """(N,) float64 seconds."""
    return rows.durations if isinstance(rows, Manifest) else np.array([row.duration for row in rows])


def cut_descending(lengths: np.ndarray, limit: float) -> list[slice]:
    """(N,) descending -> stretches whose longest x count is at most `limit`, or of a single row."""
    stretches, start = [], 0
    while start < len(lengths):
        stop = start + max(1, int(limit / lengths[start]))
        stretches.append(slice(start, min(stop, len(lengths))))
        start = stop
    return stretches


class UtteranceBatches:
    """Callable: update -> the micro-batches of this process, as many on every process; see `Batch` on empty ones.

    rows: with texts; every one is seen once an epoch.
    batch_seconds: most padded seconds of an update, over all processes and micro-batches.
    device_seconds: most padded seconds of a micro-batch, after the slowest speed that is drawn.
    classes: (N,) class of each row, for classification.
    """

    def __init__(
        self,
        rows: Sequence[Utterance],
        batch_seconds: float,
        augmenter: Augmenter,
        alphabet: Alphabet | None,
        seed: int,
        *,
        device_seconds: float | None = None,
        rank: int = 0,
        world: int = 1,
        classes: np.ndarray | None = None,
    ) -> None:
        self.durations = durations_of(rows)
        self.groups = Groups(self.durations, batch_seconds, seed)
        self.reader = Reader(rows)
        self.augmenter = augmenter
        self.alphabet = alphabet
        self.seed = seed
        self.device_seconds = device_seconds or batch_seconds
        self.rank = rank
        self.world = world
        self.classes = classes

    @property
    def updates_per_epoch(self) -> int:
        """The same in every epoch."""
        return self.groups.updates_per_epoch

    @property
    def skipped(self) -> int:
        """Rows that this process could not read so far."""
        return self.reader.skipped

    def __call__(self, update: int) -> list[Batch]:
        """The same for the same (seed, update)."""
        rows = np.concatenate(self.groups(update))
        rows = rows[np.argsort(-self.durations[rows], kind="stable")]
        shares = [rows[rank :: self.world] for rank in range(self.world)]
        cuts = [cut_descending(self._lengths(share), self.device_seconds) for share in shares]
        mine = [shares[self.rank][stretch] for stretch in cuts[self.rank]]
        mine += [rows[:0]] * (max(map(len, cuts)) - len(mine))
        return [self._batch(indices, update) for indices in mine]

    def _lengths(self, rows: np.ndarray) -> np.ndarray:
        return np.maximum(self.durations[rows], 1e-3) * self.augmenter.longest_stretch

    def _batch(self, indices: np.ndarray, update: int) -> Batch:
        seeds = row_seeds(self.seed, update, indices)

        def load(row: Utterance, position: int) -> np.ndarray:
            generator = np.random.default_rng(int(seeds[position]))
            return self.augmenter.utterance(load_utterance(row), generator)

        kept, rows, waveforms = self.reader.read(indices, load)
        classes = None if self.classes is None else self.classes[indices[kept]]
        return make_batch(waveforms, [row.text for row in rows], self.alphabet, seeds=seeds[kept], classes=classes)

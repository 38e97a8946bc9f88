"""Batches of crops, for pre-training (wav2vec 2.0 section 4.2; fairseq's rule): nothing in them is padding.

All rows of a group are cropped at random to one length, that of its shortest or `max_seconds`; groups hold like
lengths, so that little is lost. Groups and their crop lengths are a function of (seed, update); a process takes every
`world`-th row of a group and reads only its crops.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.data.augment import Augmenter
from sewkit.data.batch import Batch, make_batch, row_seeds
from sewkit.data.buckets import Groups
from sewkit.data.manifest import ManifestError, Utterance, load_crop
from sewkit.data.reading import Reader
from sewkit.data.utterances import durations_of

MAX_SECONDS = 250_000 / SAMPLE_RATE
MIN_SECONDS = 2.0


class CropBatches:
    """Callable: update -> the micro-batches of this process, as many on every process; see `Batch` on empty ones.

    rows: labels are not needed; those shorter than `min_seconds` are never drawn.
    batch_seconds: most seconds of an update, over all processes and micro-batches.
    device_seconds: most seconds of a micro-batch.
    augmenter: what it does to a string (room, noise, gain) is done to a crop; speed is not.
    """

    def __init__(
        self,
        rows: Sequence[Utterance],
        batch_seconds: float,
        seed: int,
        *,
        device_seconds: float | None = None,
        rank: int = 0,
        world: int = 1,
        min_seconds: float = MIN_SECONDS,
        max_seconds: float = MAX_SECONDS,
        augmenter: Augmenter | None = None,
    ) -> None:
        durations = durations_of(rows)
        self.usable = np.flatnonzero(durations >= min_seconds)
        if not len(self.usable):
            raise ManifestError(f"none of {len(rows)} recordings is {min_seconds} s long; lower min_seconds")
        self.durations = durations
        self.groups = Groups(np.minimum(durations[self.usable], max_seconds), batch_seconds, seed)
        self.reader = Reader(rows)
        self.seed = seed
        self.device_seconds = device_seconds or batch_seconds
        self.rank = rank
        self.world = world
        self.max_seconds = max_seconds
        self.augmenter = augmenter

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
        return [batch for group in self.groups(update) for batch in self._share(self.usable[group], update)]

    def _share(self, group: np.ndarray, update: int) -> list[Batch]:
        """This process's rows of a group, in as many micro-batches as the longest share of a process needs."""
        seconds = min(float(self.durations[group].min()), self.max_seconds)
        most_rows = max(1, int(self.device_seconds / seconds))
        num_batches = -(-len(range(0, len(group), self.world)) // most_rows)
        seeds = row_seeds(self.seed, update, group)
        mine = np.arange(self.rank, len(group), self.world)
        shares = np.array_split(mine, num_batches)
        return [self._batch(group, seeds, places, int(seconds * SAMPLE_RATE)) for places in shares]

    def _batch(self, group: np.ndarray, seeds: np.ndarray, places: np.ndarray, num_samples: int) -> Batch:
        """The crops of the rows at these places of the group."""

        def load(row: Utterance, position: int) -> np.ndarray:
            generator = np.random.default_rng(int(seeds[places[position]]))
            first = int(generator.integers(max(0, int(row.duration * SAMPLE_RATE) - num_samples) + 1))
            crop = load_crop(row, first, num_samples)
            return self.augmenter.string(crop, generator) if self.augmenter else crop

        kept, rows, waveforms = self.reader.read(group[places], load)
        batch = make_batch(waveforms, [row.text for row in rows], None, seeds=seeds[places[kept]])
        return replace(batch, group_seeds=torch.from_numpy(seeds), group_rows=torch.from_numpy(places[kept]))

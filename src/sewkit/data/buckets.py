"""Which utterances an update computes, as a function of (seed, update): groups of like length, in random order.

An epoch sorts the utterances by duration with a little noise, cuts them into groups where the undisturbed order was cut
once and for all, and shuffles the groups. So every utterance appears once an epoch, little is padding, and every epoch
has the same number of updates: any update is found at once, a run resumes mid-epoch at no cost. An update takes several
groups, since one of a single length would be a biased sample. Nothing depends on devices or the number of processes.
"""

import numpy as np

from sewkit.data.manifest import ManifestError

JITTER = 0.03
"""Durations are multiplied by 1 +- this before they are sorted: neighbours change from epoch to epoch."""
GROUP_SECONDS = 60.0
MAX_GROUPS = 8


def cut(lengths: np.ndarray, limit: float) -> np.ndarray:
    """(N,) ascending -> (G + 1,) bounds of groups whose longest x count is at most `limit`, or of a single row."""
    bounds = [0]
    while bounds[-1] < len(lengths):
        start = bounds[-1]
        most = max(1, int(limit / lengths[start]))  # the longest is at least the first
        window = lengths[start : start + most]
        fits = window * np.arange(1, len(window) + 1) <= limit
        bounds.append(start + max(1, int(fits.sum())))
    return np.array(bounds)


class Groups:
    """Callable: update -> its groups, arrays of utterance numbers. Every one holds like lengths."""

    def __init__(self, durations: np.ndarray, batch_seconds: float, seed: int) -> None:
        """`batch_seconds`: most padded seconds of an update, unless a single utterance is longer."""
        if not len(durations):
            raise ManifestError("no utterance to train on; `sewkit data validate` tells why rows are left out")
        self.durations = np.maximum(durations, 1e-3)  # an empty recording must not count for nothing
        self.seed = seed
        per_update = int(np.clip(batch_seconds // GROUP_SECONDS, 1, MAX_GROUPS))
        # After noise of 1 +- j the k-th place holds at most (1 + j) / (1 - j) of the k-th duration: the limit holds.
        limit = batch_seconds / per_update * (1 - JITTER) / (1 + JITTER)
        self.bounds = cut(np.sort(self.durations), limit)
        num_groups = len(self.bounds) - 1
        self.updates_per_epoch = -(-num_groups // per_update)
        self._epoch: tuple[int, np.ndarray, list[np.ndarray]] | None = None

    def __call__(self, update: int) -> list[np.ndarray]:
        """The same for the same (seed, update)."""
        epoch, place = divmod(update, self.updates_per_epoch)
        order, groups_of_updates = self._draw(epoch)
        return [order[self.bounds[group] : self.bounds[group + 1]] for group in groups_of_updates[place]]

    def _draw(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """(order of the utterances, group numbers of each update); the last epoch drawn is kept."""
        if self._epoch is None or self._epoch[0] != epoch:
            generator = np.random.default_rng((self.seed, 1, epoch))
            noise = generator.uniform(1 - JITTER, 1 + JITTER, size=self.durations.size)
            shuffled = generator.permutation(len(self.bounds) - 1)
            updates = np.array_split(shuffled, self.updates_per_epoch)
            self._epoch = (epoch, np.argsort(self.durations * noise, kind="stable"), updates)
        return self._epoch[1:]

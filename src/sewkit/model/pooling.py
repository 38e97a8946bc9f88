"""Query and key-value pooling inside attention (stochastic compression, arXiv 2204.11934).

Before the projections, neighbouring frames are averaged, valid ones only: that commutes with a linear layer, so it is
pooling queries or keys and values, for less. Attention over pooled queries gives ceil(U / q) frames, each repeated q
times on the way back; the residual and the feed-forward block stay at U frames. A key that stands for c of k frames
adds log(c / k) to its scores, and so weighs c / k of a full one: where frames within a window are alike, pooling keys
changes nothing. (log(c) would do the same: softmax does not see a constant. This one is 0 for a full window.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from sewkit.lengths import has_padding, pooled_length, valid_mask, window_counts


@dataclass(frozen=True)
class Windows:
    """How the frames of a padded batch are taken together, `size` at a time: U frames -> W = ceil(U / size) windows."""

    size: int
    num_frames: int
    lengths: Tensor | None
    """(B,) valid frames; None where every window is full of them."""

    @classmethod
    def over(cls, lengths: Tensor, num_frames: int, size: int) -> Windows | None:
        """Windows over rows of (B,) valid frames; None where `size` is 1, which leaves frames as they are."""
        if size == 1:
            return None
        full = num_frames % size == 0 and not has_padding(lengths, num_frames)
        return cls(size, num_frames, None if full else lengths)

    def mean(self, x: Tensor) -> Tensor:
        """(B, U, H) -> (B, W, H), the mean of each window's valid frames; 0 where there is none."""
        if self.lengths is None:
            return x.unflatten(1, (-1, self.size)).mean(2)
        missing = pooled_length(self.num_frames, self.size) * self.size - self.num_frames
        x = x.masked_fill(~valid_mask(self.lengths, self.num_frames)[:, :, None], 0.0)
        sums = F.pad(x, (0, 0, 0, missing)).unflatten(1, (-1, self.size)).sum(2)
        return sums / self._counts(self.lengths)[:, :, None].clamp(min=1)

    def spread(self, x: Tensor) -> Tensor:
        """(B, W, H) -> (B, U, H), every frame as its window."""
        return x.repeat_interleave(self.size, dim=1)[:, : self.num_frames]

    def key_bias(self) -> Tensor | None:
        """(B, 1, 1, W) float32 that is added to the scores of each key; None where it would be 0 everywhere.

        -inf for a window without valid frames. A row that has no others attends to its first, as in `key_mask`.
        """
        if self.lengths is None:
            return None
        counts = self._counts(self.lengths.clamp(min=1))
        return (counts.float().log() - math.log(self.size))[:, None, None]

    def _counts(self, lengths: Tensor) -> Tensor:
        return window_counts(lengths, self.num_frames, self.size)


@dataclass(frozen=True)
class Pooling:
    """The windows of a layer's queries, and of its keys and values; None where they are not pooled."""

    queries: Windows | None = None
    keys: Windows | None = None

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, U, H) -> (B, Wq, H) for queries, (B, Wk, H) for keys and values."""
        queries = x if self.queries is None else self.queries.mean(x)
        if self.keys is None:
            return queries, x
        alike = self.queries is not None and self.queries.size == self.keys.size
        return queries, queries if alike else self.keys.mean(x)

    def spread(self, x: Tensor) -> Tensor:
        """(B, Wq, H) -> (B, U, H)."""
        return x if self.queries is None else self.queries.spread(x)


NO_POOLING = Pooling()

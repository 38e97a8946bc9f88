"""Long recordings as overlapping chunks, and which frames of each chunk to keep.

Chunks start at multiples of 12 hops, so that windows of every squeeze factor from 1 to 4 fall on the same samples as in
the whole recording; where attention pools, at multiples that its windows fit too. The kept stretches of neighbouring
chunks meet exactly: stitched, they have the frames that the recording would have in one piece. Each kept frame has at
least the margin of sound on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import lcm

import numpy as np

from sewkit.audio import SAMPLE_RATE
from sewkit.config import ModelConfig
from sewkit.lengths import hop_samples

CHUNK_SECONDS = 30.0
"""Longest clip that is run in one piece."""
MARGIN_SECONDS = 2.9
"""Sound on either side of a kept stretch that the model hears but whose frames are dropped."""
ALIGNMENT_HOPS = 12
"""Least common multiple of the squeeze factors 1 to 4."""


@dataclass(frozen=True)
class Chunk:
    """A stretch of a recording. Of its frames, those from `keep_from` up to `keep_to` (None: all the rest) count."""

    samples: np.ndarray
    keep_from: int
    keep_to: int | None


@dataclass(frozen=True)
class ChunkPlan:
    """Sizes in samples, multiples of `aligned_hops`."""

    chunk: int
    margin: int
    hop: int

    @classmethod
    def for_model(cls, config: ModelConfig) -> ChunkPlan:
        """The plan for a model's hop."""
        hop = hop_samples(config.conv_layers)
        unit = hop * aligned_hops(config)
        chunk, margin = (
            max(1, int(seconds * SAMPLE_RATE) // unit) * unit for seconds in (CHUNK_SECONDS, MARGIN_SECONDS)
        )
        return cls(chunk, margin, hop)

    def without_overlap(self) -> ChunkPlan:
        """Chunks side by side, for what is averaged over a recording and needs no frame to be exact."""
        return replace(self, margin=0)


def aligned_hops(config: ModelConfig) -> int:
    """Hops of which all windows of a model are divisors, at any of its operating points; 12 for a fixed model.

    Sets of factors and pools so odd that a margin has no such multiple are aligned for plain squeezing only.
    """
    pools = {
        number
        for pool in (*config.query_pools, *config.kv_pools)
        for number in (pool if isinstance(pool, tuple) else (pool,))
    }
    hops = lcm(ALIGNMENT_HOPS, *(factor * pool for factor in config.squeeze_factors for pool in pools))
    return hops if hops * hop_samples(config.conv_layers) <= MARGIN_SECONDS * SAMPLE_RATE else ALIGNMENT_HOPS


def split(blocks: Iterable[np.ndarray], plan: ChunkPlan) -> Iterator[Chunk]:
    """Blocks of one recording -> chunks, holding no more than a chunk and a block at a time."""
    buffer = np.zeros(0, np.float32)
    keep_from = 0
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) > plan.chunk:
            yield Chunk(buffer[: plan.chunk], keep_from, (plan.chunk - plan.margin) // plan.hop)
            buffer = buffer[plan.chunk - 2 * plan.margin :]
            keep_from = plan.margin // plan.hop
    yield Chunk(buffer, keep_from, None)


def quiet_seam(holds_letter: np.ndarray) -> int:
    """(T,) bool -> the place from 0 to T that is farthest from any letter; of several the one nearest to the middle."""
    places = np.arange(len(holds_letter) + 1)
    letters = np.flatnonzero(holds_letter)
    following = np.searchsorted(letters, places)
    none = len(places)  # a letter beyond either end is as far as any can be
    before = np.append(-2 * none, letters)[following]
    behind = np.append(letters, 3 * none)[following]
    clearance = np.minimum(places - 1 - before, behind - places).clip(max=none)
    best = places[clearance == clearance.max()]
    return int(best[np.abs(best - len(holds_letter) / 2).argmin()])

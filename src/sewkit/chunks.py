"""Long recordings as overlapping chunks, and which frames of each chunk to keep.

Chunks start at multiples of 12 hops, so that pooling windows of every squeeze factor from 1 to 4 fall on the same
samples as in the whole recording. The kept stretches of neighbouring chunks meet exactly: stitched, they have the
frames that the recording would have in one piece. Each kept frame has at least the margin of sound on either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

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
    """Sizes in samples, multiples of 12 hops."""

    chunk: int
    margin: int
    hop: int

    @classmethod
    def for_model(cls, config: ModelConfig) -> ChunkPlan:
        """The plan for a model's hop."""
        hop = hop_samples(config.conv_layers)
        unit = hop * ALIGNMENT_HOPS
        chunk, margin = (
            max(1, int(seconds * SAMPLE_RATE) // unit) * unit for seconds in (CHUNK_SECONDS, MARGIN_SECONDS)
        )
        return cls(chunk, margin, hop)

    def without_overlap(self) -> ChunkPlan:
        """Chunks side by side, for what is averaged over a recording and needs no frame to be exact."""
        return replace(self, margin=0)


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

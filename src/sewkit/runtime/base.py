"""The contract of a runtime, and how work is cut into batches for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sewkit.compute import Compute
from sewkit.config import ModelConfig


class Runtime(Protocol):
    """Runs one model on padded batches. In float32 an item's result is what it gets alone, to 1e-4."""

    config: ModelConfig

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """Waveforms (num_samples,) float32 -> letter scores (num_frames, vocab) float32, one each, in one batch."""

    def encode(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """Waveforms (num_samples,) float32 -> encoder output (num_frames, hidden) float32, one each, in one batch."""

    def class_scores(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """Waveforms (num_samples,) float32 -> class scores (num_labels,) float32, one each, in one batch."""


@runtime_checkable
class SplitRuntime(Protocol):
    """A runtime that can stop behind the feature extractor, which is the same at all points, and go on from there."""

    def features(self, waveforms: Sequence[np.ndarray]) -> list[Any]:
        """Waveforms (num_samples,) float32 -> features (num_frames, channels), one each, kept where it computes."""

    def logits_from_features(self, features: Sequence[Any], compute: Compute | None = None) -> list[np.ndarray]:
        """Features, or slices of them -> letter scores (num_frames, vocab) float32, one each, in one batch."""


def batches_by_size(sizes: Sequence[int], max_size: int, max_padding: float = math.inf) -> list[list[int]]:
    """Indices grouped so that each batch, padded to its longest, stays within `max_size`; alike lengths go together.

    An item larger than `max_size` makes a batch of its own; so does one that would need more than `max_padding`.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        longest = sizes[batches[-1][0]] if batches else 0
        if batches and longest * (len(batches[-1]) + 1) <= max_size and longest - sizes[index] <= max_padding:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches

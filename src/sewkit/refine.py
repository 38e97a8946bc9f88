"""Two passes: all sound at a cheap operating point, then again, at a dear one, what the first pass was unsure of.

The feature extractor is the same work at every point, so it runs once: the second pass takes up its features, where the
runtime can. It hears each doubtful stretch with a margin of sound on either side. Its logits take the place of the
first ones from a seam in each margin, where the letters of both passes are farthest; decoding and the times of words
see the logits of one recording. Stretches lie on the grid of the model's windows: one that covers all of a recording
gives what the second point gives; without any there is what the first gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sewkit.audio import SAMPLE_RATE
from sewkit.chunks import aligned_hops, quiet_seam
from sewkit.compute import Compute, Refinement
from sewkit.config import ModelConfig
from sewkit.decode.greedy import best_labels
from sewkit.lengths import hop_samples, informed_length, receptive_field
from sewkit.runtime import Runtime, SplitRuntime, batches_by_size

DOUBT_FRAMES = 25
"""Frames, half a second, over which doubt is averaged: it lasts longer than a letter."""


def doubt(logits: np.ndarray) -> np.ndarray:
    """(T, V) -> (T,) from 0 to 1: one minus the probability of the best label, averaged over the frames around."""
    unsure = 1 - best_labels(logits).probabilities
    frames = np.arange(len(unsure))
    first = np.maximum(frames - DOUBT_FRAMES // 2, 0)
    last = np.minimum(frames + DOUBT_FRAMES // 2 + 1, len(unsure))
    sums = np.concatenate([[0.0], np.cumsum(unsure, dtype=np.float64)])
    return np.maximum(sums[last] - sums[first], 0.0) / (last - first)


@dataclass(frozen=True)
class Heard:
    """What a first pass says of a recording's frames."""

    doubts: np.ndarray
    """(T',) of those that carry sound."""
    letters: np.ndarray
    """Numbers of those that hold a letter, ascending."""
    num_frames: int

    @classmethod
    def of(cls, logits: np.ndarray, squeeze: int, silent: frozenset[int]) -> Heard:
        """(T, V) logits at a squeeze factor; `silent`: labels that are no letters."""
        informed = logits[: informed_length(len(logits), squeeze)]
        return cls(doubt(informed), np.flatnonzero(holds_letter(informed, silent)), len(logits))

    def quietest(self, places: range) -> int:
        """Of these places, the one farthest from letters, of several the first; an end of the recording is as good."""
        if min(places) <= 0 or max(places) >= self.num_frames:
            return 0 if min(places) <= 0 else self.num_frames
        beyond = np.r_[-np.inf, self.letters, np.inf]
        following = np.searchsorted(self.letters, places) + 1
        clearances = np.minimum(places - beyond[following - 1] - 1, beyond[following] - places)
        return places[int(clearances.argmax())]


def holds_letter(logits: np.ndarray, silent: frozenset[int]) -> np.ndarray:
    """(T, V) -> (T,) bool: whether the best label is a letter."""
    return ~np.isin(logits.argmax(1), list(silent))


class Stretch(NamedTuple):
    """Frames [start, end) of doubt; heard again from `first` up to `last`."""

    start: int
    end: int
    first: int
    last: int


def stretches(heard: Heard, threshold: float, unit: int, margin: int) -> list[Stretch]:
    """What to hear again of a recording, in order and apart.

    Stretches are made of windows of `unit` frames that hold a doubtful one. They are heard with one to two margins on
    either side, from and to the place that is farthest from letters: a word that begins in the middle is easily
    misread. Those that meet are one. A sound so short that the first pass has no frame of it is in doubt.
    """
    doubts = heard.doubts if len(heard.doubts) else np.full(min(1, heard.num_frames), 1 - np.finfo(float).eps)
    windows = np.unique(np.flatnonzero(doubts >= threshold) // unit)
    found: list[Stretch] = []
    for group in np.split(windows, np.flatnonzero(np.diff(windows) > 1) + 1) if len(windows) else []:
        start, end = int(group[0]) * unit, int(group[-1] + 1) * unit
        if end >= len(doubts):
            end = heard.num_frames  # with what frames the first pass could not reach
        first = heard.quietest(range(start - margin, start - 2 * margin - 1, -unit))
        last = heard.quietest(range(end + margin, end + 2 * margin + 1, unit))
        if found and first <= found[-1].last:
            start, first = found[-1].start, found.pop().first
        found.append(Stretch(start, end, first, last))
    return found


def grid(config: ModelConfig, refinement: Refinement) -> tuple[int, int]:
    """(unit, margin) for `stretches`, in frames."""
    unit = aligned_hops(config)
    return unit, round(refinement.margin * SAMPLE_RATE / hop_samples(config.conv_layers) / unit) * unit


class TwoPasses:
    """Takes the place of `Runtime.logits`; frames that carry no sound (see `lengths.informed_length`) are left out."""

    def __init__(
        self, runtime: Runtime, first: Compute, second: Compute, refinement: Refinement, silent: frozenset[int]
    ):
        """first, second: points of the model. silent: labels that are no letters."""
        self.runtime = runtime
        self.first, self.second = first, second
        self._threshold = refinement.threshold
        self._silent = silent
        self._hop = hop_samples(runtime.config.conv_layers)
        self._unit, self._margin = grid(runtime.config, refinement)

    def logits(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Waveforms (num_samples,) of one batch -> letter scores (num_frames, vocab), one each."""
        sounds = self._sounds(waveforms)
        logits = sounds.run(sounds.items, self.first)
        lengths = [len(one) for one in logits]
        ends = [informed_length(length, self.first.squeeze) for length in lengths]
        heard = [Heard.of(one, self.first.squeeze, self._silent) for one in logits]
        found = [
            (row, stretch)
            for row, one in enumerate(heard)
            for stretch in stretches(one, self._threshold, self._unit, self._margin)
        ]
        sizes = [stretch.last - stretch.first for _, stretch in found]
        for batch in batches_by_size(sizes, len(logits) * max(lengths)):
            parts = [sounds.part(row, stretch, lengths[row]) for row, stretch in (found[index] for index in batch)]
            for index, again in zip(batch, sounds.run(parts, self.second), strict=True):
                row, stretch = found[index]
                logits[row] = self._spliced(logits[row], again, stretch)
                if stretch.last == lengths[row]:
                    ends[row] = informed_length(lengths[row], self.second.squeeze)
        return [one[:end] for one, end in zip(logits, ends, strict=True)]

    def _sounds(self, waveforms: Sequence[np.ndarray]) -> _Sounds:
        if isinstance(self.runtime, SplitRuntime):
            return _Sounds(self.runtime.features(waveforms), self.runtime.logits_from_features, 1, 1)
        return _Sounds(waveforms, self.runtime.logits, self._hop, receptive_field(self.runtime.config.conv_layers))

    def _spliced(self, logits: np.ndarray, again: np.ndarray, stretch: Stretch) -> np.ndarray:
        """The logits of both passes; half a margin is left to the second pass to hear, but not to speak."""
        reach = self._margin // 2
        start, end = stretch.first, stretch.last
        if start > 0:
            start = self._seam(logits, again, stretch.start - reach, stretch.start, stretch.first)
        if end < len(logits):
            end = self._seam(logits, again, stretch.end, stretch.end + reach, stretch.first)
        heard = again[start - stretch.first : end - stretch.first]
        return np.concatenate([logits[:start], heard, logits[end:]])

    def _seam(self, logits: np.ndarray, again: np.ndarray, start: int, end: int, first: int) -> int:
        """The place from `start` to `end` where the letters of both are farthest."""
        both = logits[start:end], again[start - first : end - first]
        return start + quiet_seam(holds_letter(both[0], self._silent) | holds_letter(both[1], self._silent))


class _Sounds(NamedTuple):
    """What both passes hear, features or waveforms: frame f is made of `field` elements from f * hop on."""

    items: Sequence[Any]
    run: Callable[[Sequence[Any], Compute], list[np.ndarray]]
    hop: int
    field: int

    def part(self, row: int, stretch: Stretch, num_frames: int) -> Any:
        """What of an item with so many frames is heard again."""
        last = None if stretch.last == num_frames else (stretch.last - 1) * self.hop + self.field
        return self.items[row][stretch.first * self.hop : last]

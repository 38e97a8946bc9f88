"""Greedy CTC: the best label of every frame, runs collapsed, then blanks dropped.

Of a long recording only two numbers a frame are kept, label and probability, so stitched pieces decode exactly as one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sewkit.text import Alphabet
from sewkit.transcript import Word


class FrameLabels(NamedTuple):
    """Best label of each frame and its probability, arrays of shape (T,)."""

    ids: np.ndarray
    probabilities: np.ndarray

    @staticmethod
    def concatenate(pieces: list[FrameLabels]) -> FrameLabels:
        """Neighbouring stretches of one recording as one."""
        return FrameLabels(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


@dataclass(frozen=True)
class FrameTiming:
    """Where frame f lies in the sound: from f * hop to f * hop + receptive field, in samples."""

    hop_samples: int
    receptive_field: int
    sample_rate: int

    def start(self, frame: int) -> float:
        """First instant that the frame sees, in seconds."""
        return frame * self.hop_samples / self.sample_rate

    def end(self, frame: int) -> float:
        """Last instant that the frame sees, in seconds."""
        return (frame * self.hop_samples + self.receptive_field) / self.sample_rate


def best_labels(logits: np.ndarray) -> FrameLabels:
    """(T, V) float32 logits -> best label of each frame with its softmax probability."""
    ids = logits.argmax(1) if len(logits) else np.zeros(0, np.int64)
    top = np.take_along_axis(logits, ids[:, None], 1)
    probabilities = 1 / np.exp(logits - top).sum(1)
    return FrameLabels(ids.astype(np.int32), probabilities.astype(np.float32))


def decode_words(labels: FrameLabels, alphabet: Alphabet, timing: FrameTiming) -> list[Word]:
    """Frame labels -> words.

    A word lasts from the first frame of its first letter to the last frame of its last. Its confidence is the mean,
    over its letters, of the highest probability a letter reaches.
    """
    words: list[Word] = []
    letters: list[_Letter] = []
    for letter in _letters(labels, alphabet):
        if letter.token == alphabet.delimiter or not letter.token.strip():
            _finish_word(words, letters, timing)
        else:
            letters.append(letter)
    _finish_word(words, letters, timing)
    return words


class GreedySearch:
    """The decoder that takes the best label of each frame."""

    def start(self) -> GreedyState:
        """Begin a recording that comes in pieces."""
        return GreedyState()


class GreedyState:
    """The labels of one recording so far."""

    def __init__(self) -> None:
        self._pieces: list[FrameLabels] = []

    def feed(self, logits: np.ndarray) -> None:
        """Take the next (T, V) logits."""
        self._pieces.append(best_labels(logits))

    def labels(self) -> FrameLabels:
        """Labels of all frames fed."""
        return FrameLabels.concatenate(self._pieces)


class _Letter(NamedTuple):
    token: str
    first_frame: int
    last_frame: int
    confidence: float


def _letters(labels: FrameLabels, alphabet: Alphabet) -> list[_Letter]:
    """Runs of one label, without the silent ones."""
    ids, probabilities = labels
    if not len(ids):
        return []
    firsts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    lasts = np.r_[firsts[1:], len(ids)] - 1
    peaks = np.maximum.reduceat(probabilities, firsts)
    return [
        _Letter(alphabet.tokens[ids[first]], int(first), int(last), float(peak))
        for first, last, peak in zip(firsts, lasts, peaks, strict=True)
        if ids[first] not in alphabet.silent
    ]


def _finish_word(words: list[Word], letters: list[_Letter], timing: FrameTiming) -> None:
    if not letters:
        return
    text = "".join(letter.token for letter in letters)
    start, end = timing.start(letters[0].first_frame), timing.end(letters[-1].last_frame)
    confidence = sum(letter.confidence for letter in letters) / len(letters)
    words.append(Word(text, round(start, 3), round(end, 3), round(confidence, 4)))
    letters.clear()

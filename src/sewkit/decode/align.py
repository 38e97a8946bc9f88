"""When each word of a known text was spoken: the best CTC path through its letters, then the words' edges.

The path says in which frames a letter was recognised. CTC letters are short: a word's first letter is found well after
the word begins, its last well before it ends, by an amount that differs from model to model. The sound itself does not
differ, so edges are taken from there: a word lasts as long as the sound around its letters, and two words part at the
quietest moment between the letters of one and the letters of the other. Frame f stands for the samples from f to f + 1
hops.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from sewkit.decode.spelling import Reference
from sewkit.decode.trellis import LostPathError, best_path
from sewkit.errors import UserError
from sewkit.lengths import needed_frames
from sewkit.transcript import AlignedWord, Character

MISSING_BELOW = -3.0
"""A word of a lower score is called missing; from `recipes/bundled/measure_alignment.py`."""
STEPS_PER_FRAME = 2
"""Loudness is measured so many times a frame: every 10 ms."""
QUIET_DB = 30.0
"""What is so far below a word's loudest moment is no part of it."""
ABOVE_NOISE_DB = 6.0
"""Nor is what is no louder than the noise by so much, unless the noise is within `LEAST_DB` of the word itself."""
LEAST_DB = 10.0
LONGEST_CLOSURE = 10
"""Steps of silence that a word may hold: before a burst such as the T of EIGHT."""
LONGEST_REACH = 50
"""Steps that a word may last beyond its letters."""
NOISE_STEPS = 500
"""Steps on either side of a word in which the noise is measured, as the tenth that is most quiet."""


class Evidence(NamedTuple):
    """What alignment needs of a stretch of sound. log_probs: (T, U) of the reference's columns; power: (H,) a step."""

    log_probs: np.ndarray
    power: np.ndarray

    @staticmethod
    def of(logits: np.ndarray, samples: np.ndarray, reference: Reference, hop: int) -> Evidence:
        """(T, V) logits and the samples from the first frame on, which may go on beyond the last."""
        top = logits.max(1, keepdims=True, initial=-np.inf)
        normaliser = top + np.log(np.exp(logits - top).sum(1, keepdims=True))
        step = hop // STEPS_PER_FRAME
        steps = samples[: len(samples) // step * step].reshape(-1, step)
        return Evidence(logits[:, reference.columns] - normaliser, steps.var(axis=1))  # var: without an offset

    @staticmethod
    def concatenate(pieces: list[Evidence]) -> Evidence:
        """Neighbouring stretches of one recording as one."""
        return Evidence(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


class AlignmentError(UserError):
    """A text and a recording that do not go together: one line that says in what."""


def align_words(
    evidence: Evidence, reference: Reference, seconds_per_frame: float, *, snap: bool = True
) -> tuple[list[AlignedWord], float]:
    """When each word of the reference was spoken, and the path's mean log posterior a frame.

    With `snap` edges are those of the sound; the characters of a word part half-way between their frames and fill it.
    Without, words and characters have the path's frames and nothing else. Raises AlignmentError.
    """
    path = _path(evidence.log_probs, reference.labels, seconds_per_frame)
    labels = np.where(path < 0, 0, reference.labels[path])
    log_probs = np.take_along_axis(evidence.log_probs, labels[:, None], 1)[:, 0]
    words = _Letters.of(path, log_probs, reference.owners).words()
    spans = np.array([word.span() for word in words], np.float64)
    if snap:
        spans = _in_sound(spans, np.array([word.is_missing() for word in words]), evidence.power)
    aligned = [
        _aligned(text, letters, reference.letters, letters.edges(span if snap else None) * seconds_per_frame)
        for text, letters, span in zip(reference.words, words, spans, strict=True)
    ]
    return aligned, float(log_probs.mean(dtype=np.float64))


def _path(log_probs: np.ndarray, labels: np.ndarray, seconds_per_frame: float) -> np.ndarray:
    """The best path, or an AlignmentError that says why there is none."""
    needed = int(needed_frames(torch.from_numpy(labels), torch.tensor([len(labels)])))
    if len(log_probs) < needed:
        found, fewest = (f"{frames * seconds_per_frame:.2f} s" for frames in (len(log_probs), needed))
        problem = f"the text's {len(labels)} letters need at least {fewest} of sound, found {found}"
        raise AlignmentError(f"{problem}; check that text and recording belong together")
    try:
        return best_path(log_probs, labels)
    except LostPathError as error:
        place = f"{error.frame * seconds_per_frame:.0f} s"
        problem = f"text and recording differ for longer than can be followed, near {place}"
        raise AlignmentError(f"{problem}; correct the text there, or align the parts before and after it") from error


def _in_sound(spans: np.ndarray, missing: np.ndarray, power: np.ndarray) -> np.ndarray:
    """(W, 2) frames of words' letters -> frames of their sound. Missing words get what the others leave, or nothing.

    The path must put a missing word's letters somewhere, often into the sound of a neighbour.
    """
    heard = np.flatnonzero(~missing)
    spans = spans.copy()
    if len(heard):
        spans[heard] = sound_around(spans[heard].astype(np.int64) * STEPS_PER_FRAME, power) / STEPS_PER_FRAME
    earliest = np.maximum.accumulate(np.where(missing, 0.0, spans[:, 1]))
    latest = np.minimum.accumulate(np.where(missing, np.inf, spans[:, 0])[::-1])[::-1]
    return np.where(missing[:, None], spans.clip(earliest[:, None], latest[:, None]), spans)


def _aligned(text: str, letters: _Letters, tokens: Sequence[str], edges: np.ndarray) -> AlignedWord:
    """A word of its letters and their (letters, 2) edges in seconds."""
    characters = [
        Character(tokens[place], _rounded(start), _rounded(end), round(float(peak), 4))
        for place, (start, end), peak in zip(letters.places, edges, letters.peaks, strict=True)
    ]
    start, end, confidence = _rounded(edges[0, 0]), _rounded(edges[-1, 1]), round(float(letters.peaks.mean()), 4)
    return AlignedWord(text, start, end, confidence, characters, letters.score(), letters.is_missing())


def _rounded(seconds: float) -> float:
    return round(float(seconds), 3)


class _Letters(NamedTuple):
    """The letters of a path in order, arrays of shape (letters,); delimiters are none."""

    places: np.ndarray  # in the reference's labels
    owners: np.ndarray  # number of the word
    starts: np.ndarray  # first frame
    ends: np.ndarray  # frame after the last
    log_probs: np.ndarray  # summed over the frames
    peaks: np.ndarray  # highest probability, as confidence is for greedy decoding

    @classmethod
    def of(cls, path: np.ndarray, log_probs: np.ndarray, owners: np.ndarray) -> _Letters:
        """Runs of one place in the path; a label that occurs twice has two places."""
        starts = np.flatnonzero(np.r_[True, path[1:] != path[:-1]])
        ends = np.r_[starts[1:], len(path)]
        sums, peaks = np.add.reduceat(log_probs, starts), np.maximum.reduceat(log_probs, starts)
        places = path[starts]
        kept = (places >= 0) & (owners[places] >= 0)
        runs = (starts[kept], ends[kept], sums[kept].astype(np.float64), np.exp(peaks[kept]))
        return cls(places[kept], owners[places[kept]], *runs)

    def words(self) -> list[_Letters]:
        """The letters of each word."""
        firsts = np.flatnonzero(np.diff(self.owners)) + 1
        return [_Letters(*parts) for parts in zip(*(np.split(field, firsts) for field in self), strict=True)]

    def span(self) -> tuple[int, int]:
        """First frame, and the frame after the last."""
        return int(self.starts[0]), int(self.ends[-1])

    def score(self) -> float:
        """Mean log posterior over the frames that stand for letters."""
        return float(self.log_probs.sum() / (self.ends - self.starts).sum())

    def is_missing(self) -> bool:
        return self.score() < MISSING_BELOW

    def edges(self, span: np.ndarray | None) -> np.ndarray:
        """(letters, 2) frames of a word's letters: their own, or such that they fill a span, parting half-way."""
        if span is None:
            return np.stack([self.starts, self.ends], 1)
        between = ((self.ends[:-1] + self.starts[1:]) / 2).clip(*span)
        return np.stack([np.r_[span[0], between], np.r_[between, span[1]]], 1)


# Edges in the sound, all in steps


def sound_around(spans: np.ndarray, power: np.ndarray) -> np.ndarray:
    """(W, 2) spans of words' letters, in order and without overlap -> spans of the sound around them."""
    smooth = np.convolve(power, np.ones(3), "same")
    parting = [_quietest(smooth, end, start) for (_, end), (start, _) in itertools.pairwise(spans)]
    limits = itertools.pairwise([0, *parting, len(power)])
    return np.array([_widened(span, limit, power) for span, limit in zip(spans.tolist(), limits, strict=True)])


def _quietest(power: np.ndarray, first: int, end: int) -> int:
    """The step in [first, end] before which it is most quiet; of equal ones, as in digital silence, the middle one."""
    if end <= first:
        return first
    quiet = np.flatnonzero(power[first:end] == power[first:end].min())
    return first + int(quiet[len(quiet) // 2])


def _widened(span: tuple[int, int], limits: tuple[int, int], power: np.ndarray) -> tuple[int, int]:
    """A word's span made as wide as its sound goes without a long pause, within limits."""
    start, end = span
    first, last = max(limits[0], start - LONGEST_REACH), min(limits[1], end + LONGEST_REACH)
    loud = np.flatnonzero(power[first:last] >= _threshold(span, power)) + first
    before, after = np.r_[loud[loud < start], start], np.r_[end - 1, loud[loud >= end]]
    gaps_before, gaps_after = (np.flatnonzero(np.diff(side) > LONGEST_CLOSURE + 1) for side in (before, after))
    new_start = before[gaps_before[-1] + 1] if len(gaps_before) else before[0]
    new_end = after[gaps_after[0]] + 1 if len(gaps_after) else after[-1] + 1
    return int(new_start), int(new_end)


def _threshold(span: tuple[int, int], power: np.ndarray) -> float:
    """Power that sets a word apart from silence, and from noise if there is any."""
    start, end = span
    peak = power[start:end].max()
    noise = np.percentile(power[max(start - NOISE_STEPS, 0) : end + NOISE_STEPS], 10)
    above_noise = min(noise * _ratio(ABOVE_NOISE_DB), peak * _ratio(-LEAST_DB))
    return float(max(peak * _ratio(-QUIET_DB), above_noise))


def _ratio(decibels: float) -> float:
    return 10 ** (decibels / 10)

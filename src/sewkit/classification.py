"""What classification returns, and how the scores of a long recording's pieces become one answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from sewkit.compute import Compute


@dataclass(frozen=True)
class LabelScore:
    """A class by name and its probability, 0 to 1; those of all classes add up to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class Classification:
    """The classes of one recording, `duration` seconds long, best first, heard at the operating point `compute`."""

    scores: list[LabelScore]
    duration: float
    compute: Compute | None
    source: str  # the recording's name for display

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.scores[0].label

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; time to the millisecond."""
        return {
            "label": self.label,
            "scores": [dataclasses.asdict(score) for score in self.scores],
            "duration": round(self.duration, 3),
            "compute": None if self.compute is None else dataclasses.asdict(self.compute),
        }


class PooledScores(NamedTuple):
    """Class scores (labels,), before the softmax, of a stretch of sound, and the frames that they are the mean of."""

    scores: np.ndarray
    num_frames: int

    @staticmethod
    def pool(pieces: Sequence[PooledScores]) -> PooledScores:
        """Stretches of one recording as one: the mean over all their frames.

        The head is linear around a mean over frames, so this is what it gives for the frames of all pieces together.
        """
        counts = [piece.num_frames for piece in pieces]
        total = sum(counts)
        if not total:
            return pieces[0]
        return PooledScores(np.average([piece.scores for piece in pieces], axis=0, weights=counts), total)


def rank(scores: np.ndarray, labels: Sequence[str], top: int | None = None) -> list[LabelScore]:
    """(labels,) scores -> softmax probabilities by name, best first; the best `top` only, if given."""
    exponentials = np.exp(scores.astype(np.float64) - scores.max())
    probabilities = exponentials / exponentials.sum()
    best = np.argsort(-probabilities, kind="stable")[:top]
    return [LabelScore(labels[index], float(probabilities[index])) for index in best]

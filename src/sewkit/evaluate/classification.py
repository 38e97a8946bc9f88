"""How often a classifier is right: accuracy with an interval, macro F1, recall of each class, confusion matrix.

The intervals are Wilson's score intervals (Wilson 1927). A share of recordings is a plain proportion, for which they
hold what they promise from a handful of recordings on, and also at 0 and 100 %, where a bootstrap has no width at all.
Like any interval over recordings, they take these as independent: few speakers make the true uncertainty larger.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from sewkit.data.manifest import ManifestError, Utterance
from sewkit.errors import MissingExtraError, UserError
from sewkit.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NUMBERED = 40
"""With more classes than this the picture's cells are too small for numbers."""
LONGEST_NAME = 24
"""Characters of a class name in the picture."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """How many of how many, as a fraction with its interval."""

    rate: float
    low: float
    high: float
    confidence: float
    right: int
    total: int

    def __str__(self) -> str:
        return f"{self.rate:.1%} [{self.low:.1%}, {self.high:.1%}]"


def share_with_interval(right: int, total: int, confidence: float = 0.95) -> Share:
    """`right` of `total` with Wilson's score interval. Raises ValueError where total is 0."""
    if total < 1:
        raise ValueError("a share of nothing")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = right / total
    middle = rate + z * z / (2 * total)
    spread = z * (rate * (1 - rate) / total + z * z / (4 * total * total)) ** 0.5
    scale = 1 + z * z / total
    low, high = max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
    return Share(rate=rate, low=low, high=high, confidence=confidence, right=right, total=total)


def label_of(utterance: Utterance, column: str) -> str:
    """The class of a manifest's row: what stands in a column, as text. Raises ManifestError where nothing does."""
    columns = {"text": utterance.text, "speaker": utterance.speaker, "split": utterance.split, **utterance.extra}
    filled = {name: str(value) for name, value in columns.items() if value not in (None, "")}
    if column not in filled:
        raise ManifestError(f"{utterance.name}: nothing in column {column!r}; this row has {', '.join(filled)}")
    return filled[column]


def class_ids(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """The place of each name among a model's labels. Raises UserError for names that are not among them."""
    ids = {label: index for index, label in enumerate(labels)}
    if unknown := sorted(set(names) - ids.keys()):
        raise UserError(
            f"{_listing(unknown)} not among the model's {len(labels)} classes ({_listing(labels)}): "
            "name another label column, or leave such rows out"
        )
    return [ids[name] for name in names]


@dataclass(frozen=True, eq=False)
class Confusion:
    """Who was taken for whom. counts: (C, C) int64, a row for the true class, a column for the answer."""

    labels: tuple[str, ...]
    counts: np.ndarray

    @classmethod
    def count(cls, labels: Sequence[str], references: Sequence[int], answers: Sequence[int]) -> Confusion:
        """From the ids of true classes and of answers, in the same order. Raises ValueError where there are none."""
        if len(references) != len(answers):
            raise ValueError(f"{len(references)} references but {len(answers)} answers")
        if not references:
            raise ValueError("no recording to count")
        counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
        np.add.at(counts, (np.asarray(references), np.asarray(answers)), 1)
        return cls(tuple(labels), counts)

    @property
    def accuracy(self) -> Share:
        """Over all recordings."""
        return share_with_interval(int(self.counts.trace()), int(self.counts.sum()))

    @property
    def recalls(self) -> list[Share | None]:
        """Share of each class's recordings that were recognised; None for a class without recordings."""
        return [
            share_with_interval(int(right), int(total)) if total else None
            for right, total in zip(self.counts.diagonal(), self.counts.sum(axis=1), strict=True)
        ]

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that occur, among the true classes or the answers; each class counts the same."""
        right = self.counts.diagonal()
        claimed = self.counts.sum(axis=0) + self.counts.sum(axis=1)
        occurs = claimed > 0
        return float((2 * right[occurs] / claimed[occurs]).mean())

    def __str__(self) -> str:
        return f"accuracy {self.accuracy} of {self.counts.sum()} recordings, macro F1 {self.macro_f1:.3f}"

    def table(self) -> str:
        """One line a class that occurs: recall with its interval, recordings, and what it was most often taken for."""
        width = max(len(label) for label in self.labels)
        lines = []
        for index, (label, recall) in enumerate(zip(self.labels, self.recalls, strict=True)):
            if recall is None:
                continue
            mistakes = self.counts[index].copy()
            mistakes[index] = 0
            worst = f", {mistakes.max()} taken for {self.labels[mistakes.argmax()]}" if mistakes.any() else ""
            lines.append(f"  {label:<{width}}  {recall!s:<24}  {recall.right} of {recall.total}{worst}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "accuracy": asdict(self.accuracy),
            "macro_f1": self.macro_f1,
            "labels": list(self.labels),
            "recalls": [None if recall is None else asdict(recall) for recall in self.recalls],
            "confusion": self.counts.tolist(),
        }

    def draw(self, path: str | os.PathLike[str]) -> None:
        """The matrix as a PNG picture: numbers are recordings, colour is their share of the true class.

        Raises MissingExtraError without matplotlib, UserError where it cannot be written.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtraError("drawing a confusion matrix", "plot") from None
        names = [_shortened(label) for label in self.labels]
        inches = max(4.0, 0.8 + 0.09 * max(map(len, names)) + 0.4 * min(len(names), MOST_NUMBERED))
        figure = Figure(figsize=(inches, inches), layout="constrained")
        axes = figure.add_subplot()
        shares = self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="answer", ylabel="true class", title=f"accuracy {self.accuracy.rate:.1%}")
        if len(names) <= MOST_NUMBERED:
            axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False)
            axes.set_yticks(range(len(names)), names, parse_math=False)
            self._write_numbers(axes, shares)
        with replacing(Path(path)) as draft:
            figure.savefig(draft, format="png", dpi=120)

    def _write_numbers(self, axes: Axes, shares: np.ndarray) -> None:
        for (row, column), number in np.ndenumerate(self.counts):
            if number:
                colour = "white" if shares[row, column] > 0.5 else "black"
                size = 8 if number < 1000 else 6
                axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=size)


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _listing(names: Sequence[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")

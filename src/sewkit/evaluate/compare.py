"""Two systems on the same recordings: is one better, and where? Paired bootstrap (Bisani and Ney 2004)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sewkit.errors import UserError
from sewkit.evaluate.bootstrap import CONFIDENCE, NUM_RESAMPLES, Clusters, Resampled, interval, resampled_rates
from sewkit.evaluate.edits import ErrorCounts, Unit
from sewkit.evaluate.evaluation import Evaluation
from sewkit.evaluate.wer import rate_of

FORMAT = "sewkit comparison 1"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Rate of B less rate of A, a fraction: below 0 B is better."""

    unit: Unit
    rate_a: float
    rate_b: float
    difference: float
    low: float
    high: float
    confidence: float
    resampled: Resampled
    a_better: float
    """Share of resamples in which A has fewer errors."""
    b_better: float
    p_value: float
    """Two-sided: twice the share of resamples that contradict the sign of the difference, ties among them."""

    @classmethod
    def of(
        cls,
        a: Sequence[ErrorCounts],
        b: Sequence[ErrorCounts],
        clusters: Clusters,
        unit: Unit,
        *,
        confidence: float = CONFIDENCE,
        num_resamples: int = NUM_RESAMPLES,
        seed: int = 0,
    ) -> Difference:
        """Of the same references, both systems on the same resamples."""
        changes = np.array([right.errors - left.errors for left, right in zip(a, b, strict=True)], dtype=np.float64)
        units = np.array([count.num_units for count in a], dtype=np.float64)
        drawn = resampled_rates(changes, units, clusters.ids, num_resamples, seed)
        low, high = interval(drawn, confidence)
        not_below, not_above = int((drawn >= 0).sum()), int((drawn <= 0).sum())
        return cls(
            unit=unit,
            rate_a=rate_of(a),
            rate_b=rate_of(b),
            difference=float(changes.sum() / max(units.sum(), 1)),
            low=low,
            high=high,
            confidence=confidence,
            resampled=clusters.resampled,
            a_better=float((drawn > 0).mean()),
            b_better=float((drawn < 0).mean()),
            p_value=min(1.0, 2 * (min(not_below, not_above) + 1) / (num_resamples + 1)),  # never 0 of few resamples
        )

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high

    def __str__(self) -> str:
        name = {"word": "WER", "character": "CER"}[self.unit]
        return (
            f"{name} A {self.rate_a:.1%}, B {self.rate_b:.1%}: {self.difference:+.1%} "
            f"[{self.low:+.1%}, {self.high:+.1%}], p {self.p_value:.2g}"
        )


@dataclass(frozen=True)
class Comparison:
    """Two evaluations, cut to the rows that both have; made by `compare`."""

    a: Evaluation
    b: Evaluation
    num_left_out: int
    """Rows that only one of them has, or none."""

    @cached_property
    def clusters(self) -> Clusters:
        """What the bootstrap draws."""
        return self.a.clusters

    @cached_property
    def wer(self) -> Difference:
        """Of word error rates."""
        return Difference.of(self.a.scores.words, self.b.scores.words, self.clusters, "word")

    @cached_property
    def cer(self) -> Difference:
        """Of character error rates."""
        return Difference.of(self.a.scores.characters, self.b.scores.characters, self.clusters, "character")

    @cached_property
    def changes(self) -> list[int]:
        """Word errors of B less those of A, an utterance each."""
        return [
            right.errors - left.errors for left, right in zip(self.a.scores.words, self.b.scores.words, strict=True)
        ]

    @property
    def wins(self) -> tuple[int, int, int]:
        """Utterances in which (A, B, neither) has fewer word errors."""
        a, b = sum(change > 0 for change in self.changes), sum(change < 0 for change in self.changes)
        return a, b, len(self.changes) - a - b

    def most_changed(self, sign: int, count: int) -> list[int]:
        """Utterances in which B gained (-1) or lost (1) most word errors against A."""
        moved = [index for index, change in enumerate(self.changes) if change * sign > 0]
        return sorted(moved, key=lambda index: -abs(self.changes[index]))[:count]

    def verdict(self) -> str:
        """In a sentence."""
        if not self.wer.is_clear:
            return f"No clear difference: the {self.wer.confidence:.0%} interval of the WER difference holds 0."
        better, share = ("B", self.wer.b_better) if self.wer.difference < 0 else ("A", self.wer.a_better)
        return f"{better} has the lower WER, in {share:.1%} of the resamples."

    def notes(self) -> list[str]:
        """What a reader of the figures must know."""
        notes = [self.verdict(), self.clusters.reason]
        if self.num_left_out:
            notes.append(f"{self.num_left_out} recordings are left out: not both systems could read them.")
        return notes

    def __str__(self) -> str:
        a, b, ties = self.wins
        lines = [f"{self.a.title}: {self.wer}", f"  {self.cer}"]
        lines.append(f"  fewer word errors: A in {a} utterances, B in {b}, as many in {ties}")
        return "\n".join(lines + [f"  {note}" for note in self.notes()])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        a, b, ties = self.wins
        return {
            "format": FORMAT,
            "manifest": self.a.manifest,
            "a": asdict(self.a.system),
            "b": asdict(self.b.system),
            "normalizer": self.a.normalizer,
            "num_utterances": len(self.changes),
            "num_left_out": self.num_left_out,
            "wer": asdict(self.wer),
            "cer": asdict(self.cer),
            "wins": {"a": a, "b": b, "neither": ties},
            "notes": self.notes(),
            "utterances": [
                {**asdict(left), "hypothesis": [left.hypothesis, right.hypothesis], "change": change}
                for left, right, change in zip(self.a.heard, self.b.heard, self.changes, strict=True)
            ],
        }


def compare(a: Evaluation, b: Evaluation) -> Comparison:
    """Raises UserError where the two are not of the same recordings, texts and normaliser."""
    if a.normalizer != b.normalizer:
        raise UserError(
            f"A was evaluated with normalizer {a.normalizer!r}, B with {b.normalizer!r}: give --normalizer for both"
        )
    rows_a, rows_b = {one.row: one for one in a.heard}, {one.row: one for one in b.heard}
    totals = [len(one.heard) + len(one.missing) for one in (a, b)]
    if totals[0] != totals[1]:
        raise UserError(f"A has {totals[0]} utterances, B {totals[1]}: compare evaluations of the same data")
    shared = sorted(rows_a.keys() & rows_b.keys())
    for row in shared:
        left, right = rows_a[row], rows_b[row]
        if left.reference != right.reference or abs(left.seconds - right.seconds) > 0.05:
            raise UserError(
                f"row {row + 1} is {left.reference!r} ({left.seconds:.2f} s) in A but {right.reference!r} "
                f"({right.seconds:.2f} s) in B: compare evaluations of the same data"
            )
    if not shared:
        raise UserError("no recording was read by both A and B: nothing to compare")
    cut = [
        dataclasses.replace(one, heard=[rows[row] for row in shared], missing=[])
        for one, rows in ((a, rows_a), (b, rows_b))
    ]
    cut[0].wer  # noqa: B018 - raises where no reference has a word
    return Comparison(cut[0], cut[1], totals[0] - len(shared))

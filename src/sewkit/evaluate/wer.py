"""Word and character error rates with bootstrap intervals; alignments come from jiwer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sewkit.evaluate.bootstrap import CONFIDENCE, NUM_RESAMPLES, Clusters, Resampled, interval, resampled_rates
from sewkit.evaluate.edits import ErrorCounts, Unit, count_errors


@dataclass(frozen=True, kw_only=True)
class ErrorRate:
    """A rate with its interval, both as fractions."""

    unit: Unit
    rate: float
    low: float
    high: float
    confidence: float
    resampled: Resampled
    """What the interval was drawn over."""
    num_units: int
    """Words (or characters) of the references."""
    num_utterances: int
    substitutions: int
    deletions: int
    insertions: int

    @classmethod
    def of(
        cls,
        counts: Sequence[ErrorCounts],
        clusters: Clusters,
        unit: Unit,
        *,
        confidence: float = CONFIDENCE,
        num_resamples: int = NUM_RESAMPLES,
        seed: int = 0,
    ) -> ErrorRate:
        """Rate over all words, and the percentile interval of that rate. Raises ValueError where there is no word."""
        errors = np.array([count.errors for count in counts], dtype=np.float64)
        units = np.array([count.num_units for count in counts], dtype=np.float64)
        if not units.sum():
            raise ValueError(f"no {unit} in the references")
        low, high = interval(resampled_rates(errors, units, clusters.ids, num_resamples, seed), confidence)
        return cls(
            unit=unit,
            rate=float(errors.sum() / units.sum()),
            low=low,
            high=high,
            confidence=confidence,
            resampled=clusters.resampled,
            num_units=int(units.sum()),
            num_utterances=len(counts),
            substitutions=sum(count.substitutions for count in counts),
            deletions=sum(count.deletions for count in counts),
            insertions=sum(count.insertions for count in counts),
        )

    def __str__(self) -> str:
        return (
            f"{self.rate:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.num_units} {self.unit}s in "
            f"{self.num_utterances} utterances ({self.substitutions} sub, {self.deletions} del, {self.insertions} ins)"
        )


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[ErrorCounts]:
    """Counts of every utterance; texts are compared as they are, word by word."""
    return count_errors(references, hypotheses, "word")


def letter_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[ErrorCounts]:
    """Counts of every utterance for character error rates; a space between words is a character too."""
    return count_errors(references, hypotheses, "character")


def rate_of(counts: Sequence[ErrorCounts]) -> float:
    """Errors of all utterances over their reference words (or characters); 0 of nothing."""
    return sum(count.errors for count in counts) / max(sum(count.num_units for count in counts), 1)


def wer_with_interval(
    references: Sequence[str],
    hypotheses: Sequence[str],
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> ErrorRate:
    """Word error rate with its interval over utterances, texts compared as they are. Raises ValueError for no word."""
    counts, clusters = word_errors(references, hypotheses), Clusters.of_utterances(len(references))
    return ErrorRate.of(counts, clusters, "word", confidence=confidence, num_resamples=num_resamples, seed=seed)


def cer_with_interval(
    references: Sequence[str],
    hypotheses: Sequence[str],
    confidence: float = CONFIDENCE,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> ErrorRate:
    """Character error rate likewise; a space between words is a character too."""
    counts, clusters = letter_errors(references, hypotheses), Clusters.of_utterances(len(references))
    return ErrorRate.of(counts, clusters, "character", confidence=confidence, num_resamples=num_resamples, seed=seed)

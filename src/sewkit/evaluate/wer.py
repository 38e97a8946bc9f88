"""Word error rate with a bootstrap interval over utterances (Bisani and Ney 2004); counts come from jiwer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sewkit.errors import MissingExtraError


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """Counts of one utterance."""

    substitutions: int
    deletions: int
    insertions: int
    num_words: int
    """Words of the reference."""

    @property
    def errors(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions


@dataclass(frozen=True, kw_only=True)
class WordErrorRate:
    """A rate with its interval, both as fractions."""

    rate: float
    low: float
    high: float
    confidence: float
    num_words: int
    num_utterances: int
    substitutions: int
    deletions: int
    insertions: int

    def __str__(self) -> str:
        return (
            f"{self.rate:.1%} [{self.low:.1%}, {self.high:.1%}] of {self.num_words} words in "
            f"{self.num_utterances} utterances ({self.substitutions} sub, {self.deletions} del, {self.insertions} ins)"
        )


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[WordErrors]:
    """Counts of every utterance; texts are compared as they are, word by word."""
    return [_errors(*pair) for pair in zip(references, hypotheses, strict=True)]


def letter_errors(references: Sequence[str], hypotheses: Sequence[str]) -> list[WordErrors]:
    """Counts of every utterance for character error rates: characters in place of words, spaces among them."""
    return word_errors([_spelled(text) for text in references], [_spelled(text) for text in hypotheses])


def _spelled(text: str) -> str:
    """Every character a word."""
    return " ".join(text.replace(" ", "_"))


def rate_of(counts: Sequence[WordErrors]) -> float:
    """Errors of all utterances over their reference words (or characters); 0 of nothing."""
    return sum(count.errors for count in counts) / max(sum(count.num_words for count in counts), 1)


def _errors(reference: str, hypothesis: str) -> WordErrors:
    try:
        import jiwer
    except ImportError:
        raise MissingExtraError("measuring word error rates", "train") from None
    if not reference.split():  # jiwer refuses empty references
        return WordErrors(substitutions=0, deletions=0, insertions=len(hypothesis.split()), num_words=0)
    output = jiwer.process_words(reference, hypothesis)
    return WordErrors(
        substitutions=output.substitutions,
        deletions=output.deletions,
        insertions=output.insertions,
        num_words=output.hits + output.substitutions + output.deletions,
    )


def wer_with_interval(
    references: Sequence[str],
    hypotheses: Sequence[str],
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> WordErrorRate:
    """Rate over all words, and the percentile interval of that rate over resampled utterances."""
    counts = word_errors(references, hypotheses)
    errors = np.array([count.errors for count in counts], dtype=np.float64)
    words = np.array([count.num_words for count in counts], dtype=np.float64)
    if not words.sum():
        raise ValueError("no word in the references")
    drawn = np.random.default_rng(seed).integers(len(counts), size=(num_resamples, len(counts)))
    rates = errors[drawn].sum(axis=1) / np.maximum(words[drawn].sum(axis=1), 1)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return WordErrorRate(
        rate=float(errors.sum() / words.sum()),
        low=float(low),
        high=float(high),
        confidence=confidence,
        num_words=int(words.sum()),
        num_utterances=len(counts),
        substitutions=sum(count.substitutions for count in counts),
        deletions=sum(count.deletions for count in counts),
        insertions=sum(count.insertions for count in counts),
    )

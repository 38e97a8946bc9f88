"""What stands between a reference and a hypothesis: edits word by word or character by character, aligned by jiwer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sewkit.errors import MissingExtraError

Unit = Literal["word", "character"]


class Edit(NamedTuple):
    """A word (or character) of the reference and what was written for it; None where one side has nothing."""

    reference: str | None
    hypothesis: str | None

    @property
    def kind(self) -> Literal["equal", "substitution", "deletion", "insertion"]:
        """As sclite calls it."""
        if self.reference is None:
            return "insertion"
        if self.hypothesis is None:
            return "deletion"
        return "equal" if self.reference == self.hypothesis else "substitution"


@dataclass(frozen=True, kw_only=True)
class ErrorCounts:
    """Errors of one utterance, in words or characters."""

    substitutions: int
    deletions: int
    insertions: int
    num_units: int
    """Words (or characters) of the reference."""

    @property
    def errors(self) -> int:
        """All errors."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors for each word of the reference; infinite where there are errors but no word."""
        if self.num_units:
            return self.errors / self.num_units
        return float("inf") if self.errors else 0.0


def align_texts(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> list[list[Edit]]:
    """The edits of each pair of texts, as few as possible, in order. White space only separates words.

    Where several alignments have the fewest edits one of them is given. Raises MissingExtraError without jiwer.
    """
    return [
        [edit for kind, left, right in chunks for edit in _edits(kind, left, right)]
        for chunks in _aligned(references, hypotheses, unit)
    ]


def count_errors(references: Sequence[str], hypotheses: Sequence[str], unit: Unit = "word") -> list[ErrorCounts]:
    """The number of edits of each kind of each pair of texts; see `align_texts`."""
    return [_counts(chunks) for chunks in _aligned(references, hypotheses, unit)]


_Chunk = tuple[str, Sequence[str], Sequence[str]]
"""Kind as jiwer names it, words of the reference, words of the hypothesis."""


def _aligned(references: Sequence[str], hypotheses: Sequence[str], unit: Unit) -> list[list[_Chunk]]:
    try:
        import jiwer
    except ImportError:
        raise MissingExtraError("measuring error rates", "train") from None
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    if not references:
        return []
    left, right = ([" ".join(text.split()) for text in texts] for texts in (references, hypotheses))
    output = jiwer.process_words(left, right) if unit == "word" else jiwer.process_characters(left, right)
    return [
        [(c.type, ours[c.ref_start_idx : c.ref_end_idx], theirs[c.hyp_start_idx : c.hyp_end_idx]) for c in chunks]
        for ours, theirs, chunks in zip(output.references, output.hypotheses, output.alignments, strict=True)
    ]


def _edits(kind: str, left: Sequence[str], right: Sequence[str]) -> Iterable[Edit]:
    if kind == "delete":
        return (Edit(word, None) for word in left)
    if kind == "insert":
        return (Edit(None, word) for word in right)
    return (Edit(*pair) for pair in zip(left, right, strict=True))


def _counts(chunks: Iterable[_Chunk]) -> ErrorCounts:
    sums = {"equal": 0, "substitute": 0, "delete": 0, "insert": 0}
    for kind, left, right in chunks:
        sums[kind] += max(len(left), len(right))
    return ErrorCounts(
        substitutions=sums["substitute"],
        deletions=sums["delete"],
        insertions=sums["insert"],
        num_units=sums["equal"] + sums["substitute"] + sums["delete"],
    )

"""Alignment of references and hypotheses, and counts of errors in words and characters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sewkit.evaluate.edits import Edit, align_texts, count_errors
from sewkit.evaluate.wer import letter_errors

TEXTS = st.lists(st.sampled_from(["a", "b", "cd", "é"]), max_size=6).map(" ".join)


def fewest_edits(left: list[str], right: list[str]) -> int:
    """By the recursion of Levenshtein's definition."""
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, start=1):
        before, row = row, [i]
        for j, other in enumerate(right, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def test_each_word_stands_beside_what_was_written_for_it() -> None:
    (edits,) = align_texts(["ONE TWO  THREE FOUR"], ["ONE TOO THREE FOUR FIVE"])
    assert edits == [
        Edit("ONE", "ONE"),
        Edit("TWO", "TOO"),
        Edit("THREE", "THREE"),
        Edit("FOUR", "FOUR"),
        Edit(None, "FIVE"),
    ]
    assert [edit.kind for edit in edits] == ["equal", "substitution", "equal", "equal", "insertion"]
    assert Edit("ONE", None).kind == "deletion"


@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=4))
def test_alignments_hold_both_texts_with_as_few_errors_as_can_be(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [left for left, _ in pairs], [right for _, right in pairs]
    counts = count_errors(references, hypotheses)
    for (left, right), edits, counted in zip(pairs, align_texts(references, hypotheses), counts, strict=True):
        assert [edit.reference for edit in edits if edit.reference is not None] == left.split()
        assert [edit.hypothesis for edit in edits if edit.hypothesis is not None] == right.split()
        assert counted.errors == fewest_edits(left.split(), right.split())
        assert counted.errors == sum(edit.kind != "equal" for edit in edits)
        assert counted.num_units == len(left.split())


@given(TEXTS, TEXTS)
def test_characters_are_counted_with_the_single_spaces_between_words(left: str, right: str) -> None:
    (counts,) = letter_errors([f" {left.replace(' ', '  ')}"], [right])
    assert counts.errors == fewest_edits(list(left), list(right))
    assert counts.num_units == len(left)


def test_the_rate_of_an_utterance_without_words_is_infinite_or_nothing() -> None:
    spoken, silent = count_errors(["", ""], ["YES", ""])
    assert (spoken.rate, silent.rate) == (float("inf"), 0.0)


def test_nothing_has_no_counts_and_lengths_must_agree() -> None:
    assert count_errors([], []) == []
    with pytest.raises(ValueError, match="2 references but 1 hypotheses"):
        align_texts(["A", "B"], ["A"])

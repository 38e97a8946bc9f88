"""Two systems on the same recordings: paired intervals, wins, and data that do not match."""

import numpy as np
import pytest
from toy_evaluations import evaluation

from sewkit.errors import UserError
from sewkit.evaluate.bootstrap import Clusters
from sewkit.evaluate.compare import Difference, compare
from sewkit.evaluate.edits import count_errors


def pairs(right: list[bool]) -> list[tuple[str, str]]:
    return [("YES NO", "YES NO" if one else "YES ON") for one in right]


def test_the_difference_is_that_of_b_less_a_and_wins_are_counted_by_utterance() -> None:
    found = compare(
        evaluation(pairs([True] * 6 + [False] * 4)), evaluation(pairs([True] * 2 + [False] * 5 + [True] * 3))
    )
    assert found.wer.difference == pytest.approx(found.wer.rate_b - found.wer.rate_a) == pytest.approx(0.05)
    assert found.wins == (4, 3, 3)
    assert found.most_changed(-1, 9) == [7, 8, 9]
    assert found.most_changed(1, 2) == [2, 3]
    assert found.wer.low < 0.05 < found.wer.high


def test_the_same_texts_do_not_differ() -> None:
    found = compare(evaluation(pairs([True, False])), evaluation(pairs([True, False])))
    assert (found.wer.difference, found.wer.low, found.wer.high, found.wer.p_value) == (0, 0, 0, 1)
    assert not found.wer.is_clear
    assert "No clear difference" in found.verdict()


def test_what_is_hard_for_both_cancels() -> None:
    """B mends one word in each of 40 utterances of very different difficulty: certain when paired."""
    words = list("ABCDEFGHIJ")
    spoken = " ".join(words)
    generator = np.random.default_rng(0)
    wrong = generator.integers(1, 10, size=40)
    a = [(spoken, " ".join(["X"] * n + words[n:])) for n in wrong]
    b = [(spoken, " ".join(["X"] * (n - 1) + words[n - 1 :])) for n in wrong]
    found = compare(evaluation(a), evaluation(b))
    assert (found.wer.low, found.wer.high) == (pytest.approx(-0.1), pytest.approx(-0.1))
    assert (found.wer.b_better, found.wer.p_value) == (1.0, pytest.approx(2 / 2001))
    assert found.verdict() == "B has the lower WER, in 100.0% of the resamples."
    assert evaluation(b).wer.high > evaluation(a).wer.low  # single intervals overlap


def test_equal_systems_are_called_different_about_as_often_as_promised() -> None:
    generator = np.random.default_rng(1)
    clear = 0
    for _ in range(200):
        a, b = (
            count_errors(["YES"] * 60, ["YES" if right else "NO" for right in generator.random(60) > 0.3])
            for _ in range(2)
        )
        clear += Difference.of(a, b, Clusters.of_utterances(60), "word", num_resamples=200).is_clear
    assert 2 <= clear <= 24  # 10 expected, binomial spread about 3, percentile intervals a little narrow


def test_rows_that_one_system_could_not_read_are_left_out_and_said() -> None:
    found = compare(evaluation(pairs([True] * 5), missing=[0]), evaluation(pairs([False] * 5), missing=[3]))
    assert [one.row for one in found.a.heard] == [one.row for one in found.b.heard] == [1, 2, 4]
    assert any("2 recordings are left out" in note for note in found.notes())
    with pytest.raises(UserError, match="no recording was read by both"):
        compare(evaluation(pairs([True] * 2), missing=[0]), evaluation(pairs([True] * 2), missing=[1]))


def test_other_data_or_another_normalizer_is_one_line() -> None:
    a = evaluation(pairs([True] * 3))
    for b, message in (
        (evaluation(pairs([True] * 4)), "A has 3 utterances, B 4: compare evaluations of the same data"),
        (evaluation([*pairs([True] * 2), ("NO", "NO")]), r"row 3 is 'YES NO' \(2.00 s\) in A but 'NO' \(2.00 s\) in B"),
        (
            evaluation(pairs([True] * 3), seconds=[2.0, 9.0, 2.0]),
            r"row 2 is 'YES NO' \(2.00 s\) in A but .* \(9.00 s\)",
        ),
        (evaluation(pairs([True] * 3), normalizer="librispeech"), "A was evaluated with normalizer 'none', B with"),
    ):
        with pytest.raises(UserError, match=message):
            compare(a, b)

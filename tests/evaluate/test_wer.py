"""Word error rates and their intervals."""

import numpy as np
import pytest

from sewkit.evaluate.wer import wer_with_interval, word_errors


def test_counts_of_each_kind():
    (counts,) = word_errors(["ONE TWO THREE FOUR"], ["ONE TOO THREE FOUR FIVE"])
    assert (counts.substitutions, counts.deletions, counts.insertions, counts.num_units) == (1, 0, 1, 4)
    assert counts.errors == 2


def test_words_where_there_are_none_are_insertions():
    (counts,) = word_errors([""], ["YES NO"])
    assert (counts.errors, counts.num_units) == (2, 0)


def test_an_empty_answer_is_deletions():
    (counts,) = word_errors(["YES NO"], [""])
    assert (counts.deletions, counts.num_units) == (2, 2)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="2 references but 1 hypotheses"):
        word_errors(["A", "B"], ["A"])


def test_the_rate_is_over_all_words_and_lies_in_its_interval():
    result = wer_with_interval(
        ["ONE TWO"] * 50 + ["ONE TWO THREE FOUR"] * 50, ["ONE TWO"] * 50 + ["ONE TWO THREE"] * 50
    )
    assert result.rate == pytest.approx(50 / 300)
    assert result.low < result.rate < result.high
    assert result.deletions == 50
    assert result == wer_with_interval(
        ["ONE TWO"] * 50 + ["ONE TWO THREE FOUR"] * 50, ["ONE TWO"] * 50 + ["ONE TWO THREE"] * 50
    )


def test_no_error_gives_an_interval_of_zero_and_no_word_an_error():
    perfect = wer_with_interval(["ONE"] * 5, ["ONE"] * 5)
    assert (perfect.rate, perfect.low, perfect.high) == (0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="no word"):
        wer_with_interval([""], [""])


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        right = generator.random(60) > 0.3
        result = wer_with_interval(["YES"] * 60, ["YES" if r else "NO" for r in right], num_resamples=300)
        covered += result.low <= 0.3 <= result.high
    assert covered >= 85  # 95 % expected, binomial spread about 2 %, percentile intervals a little narrow

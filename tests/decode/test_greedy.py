"""Greedy CTC: runs collapse before blanks go, words carry true times."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sewkit.decode import FrameLabels, FrameTiming, best_labels, decode_words
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()
TIMING = FrameTiming(hop_samples=320, receptive_field=400, sample_rate=16_000)


def frames(spelling: str, probability: float = 0.9) -> FrameLabels:
    """One character a frame; '.' is the blank."""
    ids = [ALPHABET.blank if letter == "." else ALPHABET.ids[letter] for letter in spelling]
    return FrameLabels(np.array(ids, np.int32), np.full(len(ids), probability, np.float32))


def text_of(labels: FrameLabels) -> str:
    return " ".join(word.text for word in decode_words(labels, ALPHABET, TIMING))


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        ("HHEELL.LLOO", "HELLO"),
        ("HELLO", "HELO"),
        ("B.OO.O.K", "BOOK"),
        ("|..|A||.|B|", "A B"),
        ("A.|.|.B", "A B"),
        ("......", ""),
        ("", ""),
        ("DON'T", "DON'T"),
    ],
)
def test_runs_collapse_before_blanks_are_dropped(spelling: str, text: str) -> None:
    assert text_of(frames(spelling)) == text
    assert ALPHABET.collapse(frames(spelling).ids.tolist()) == text


@given(st.text(alphabet="ABO|.", max_size=40), st.integers(0, 40))
def test_labels_cut_anywhere_and_joined_decode_the_same(spelling: str, cut: int) -> None:
    labels = frames(spelling)
    pieces = [
        FrameLabels(labels.ids[:cut], labels.probabilities[:cut]),
        FrameLabels(labels.ids[cut:], labels.probabilities[cut:]),
    ]
    assert decode_words(FrameLabels.concatenate(pieces), ALPHABET, TIMING) == decode_words(labels, ALPHABET, TIMING)


def test_a_word_lasts_from_its_first_letters_first_frame_to_its_last_letters_last_frame() -> None:
    (first, second) = decode_words(frames("..ONNE..|..TWO."), ALPHABET, TIMING)
    assert (first.text, second.text) == ("ONE", "TWO")
    assert first.start == pytest.approx(2 * 320 / 16_000)
    assert first.end == pytest.approx((5 * 320 + 400) / 16_000)
    assert second.start == pytest.approx(11 * 320 / 16_000)
    assert second.end == pytest.approx((13 * 320 + 400) / 16_000)


def test_the_last_frame_ends_within_the_clip() -> None:
    num_samples = 400 + 14 * 320
    (word,) = decode_words(frames("A" * 15), ALPHABET, TIMING)
    assert word.end * 16_000 == pytest.approx(num_samples)


def test_confidence_is_the_mean_of_each_letters_best_frame() -> None:
    labels = FrameLabels(frames("AA.B").ids, np.array([0.5, 0.9, 1.0, 0.7], np.float32))
    (word,) = decode_words(labels, ALPHABET, TIMING)
    assert word.confidence == pytest.approx((0.9 + 0.7) / 2, abs=1e-4)


def test_special_tokens_are_never_written() -> None:
    ids = np.array([ALPHABET.ids["A"], 1, 2, 3, ALPHABET.ids["B"]], np.int32)
    assert text_of(FrameLabels(ids, np.ones(5, np.float32))) == "AB"


def test_best_labels_give_the_softmax_probability() -> None:
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]], np.float32))
    labels = best_labels(logits)
    assert labels.ids.tolist() == [1, 0]
    np.testing.assert_allclose(labels.probabilities, [0.7, 0.6], rtol=1e-6)
    assert best_labels(np.zeros((0, 3), np.float32)).ids.shape == (0,)

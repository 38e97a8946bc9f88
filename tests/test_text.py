"""Alphabets of any language and case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sewkit.text import LETTERS, Alphabet

WORDS = st.text(alphabet=LETTERS, min_size=1, max_size=8)


@given(st.lists(WORDS, max_size=5))
def test_text_survives_encoding(words: list[str]) -> None:
    alphabet = Alphabet.english()
    assert alphabet.join(alphabet.encode(" ".join(words))) == " ".join(words)


def test_the_english_alphabet_is_that_of_the_published_heads() -> None:
    alphabet = Alphabet.english()
    assert len(alphabet) == 32
    assert alphabet.encode("A B") == [7, 4, 24]
    assert alphabet.tokens[4] == "|"


def test_text_is_written_in_the_alphabets_own_case() -> None:
    lower = Alphabet(("<pad>", "|", "a", "ß"))
    assert lower.join(lower.encode("A ß  a")) == "a ß a"
    assert Alphabet.english().encode("don't") == Alphabet.english().encode("DON'T")


def test_tokens_of_several_characters_are_found_longest_first() -> None:
    alphabet = Alphabet(("<pad>", "|", "a", "ch", "c", "h"))
    assert alphabet.encode("ach ca") == [2, 3, 1, 4, 2]


def test_characters_outside_the_alphabet_are_named() -> None:
    with pytest.raises(ValueError, match=r"outside the alphabet: 5 é"):
        Alphabet.english().encode("é 5 A")


def test_a_blank_outside_the_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="blank id 3"):
        Alphabet(("a", "b"), blank=3)


def test_an_alphabet_without_delimiter_writes_one_word() -> None:
    alphabet = Alphabet(("<pad>", "你", "好"), delimiter=None)
    assert alphabet.collapse([1, 1, 0, 2]) == "你好"

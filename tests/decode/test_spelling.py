"""From text as written to labels, and back to the words as written."""

import pytest

from sewkit.decode.spelling import Reference, spell
from sewkit.errors import UserError
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()


def spelled(reference: Reference) -> str:
    """The labels as text."""
    return "".join(ALPHABET.tokens[reference.columns[label]] for label in reference.labels)


@pytest.mark.parametrize(
    ("text", "words", "labels"),
    [
        ("Hello,  world!\n", ["Hello,", "world!"], "HELLO|WORLD"),
        ("\u201cDon\u2019t,\u201d he said \u2026", ["\u201cDon\u2019t,\u201d", "he", "said \u2026"], "DON'T|HE|SAID"),
        ("'quoted' dogs'", ["'quoted'", "dogs'"], "QUOTED|DOGS"),
        ("a well-known one/two", ["a", "well-known", "one/two"], "A|WELL|KNOWN|ONE|TWO"),
        ("\u2014 one \u2014 two", ["\u2014 one \u2014", "two"], "ONE|TWO"),
        ("a | b", ["a |", "b"], "A|B"),
    ],
)
def test_words_stay_as_written_and_only_what_sounds_is_spelled(text: str, words: list[str], labels: str) -> None:
    reference = spell(text, ALPHABET)
    assert (list(reference.words), spelled(reference)) == (words, labels)
    assert "".join(reference.letters) == labels


def test_owners_say_whose_letter_a_label_is() -> None:
    reference = spell("a well-known", ALPHABET)
    assert reference.owners.tolist() == [0, -1, 1, 1, 1, 1, -1, 1, 1, 1, 1, 1]


def test_columns_are_the_blank_and_the_labels_that_occur() -> None:
    reference = spell("noon on", ALPHABET)
    assert reference.columns[0] == ALPHABET.blank
    assert {ALPHABET.tokens[column] for column in reference.columns[1:]} == set("NO|")


def test_the_alphabets_own_case_and_a_head_without_delimiter() -> None:
    lower = Alphabet(("<pad>", "a", "b"), delimiter=None)
    reference = spell("AB ba", lower)
    assert reference.letters == ("a", "b", "b", "a")
    assert reference.owners.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing"),
        (" ... \u2014 ", "found only punctuation"),
        ("room 42 is", r"cannot spell 4 2 \(in 42\): write numbers and signs as the words that are spoken"),
        ("100% caf\u00e9 \u20ac5 a+b", r"cannot spell 1 0 % \u00e9 \u20ac 5 \+ \(in 100%, caf\u00e9, \u20ac5, ...\)"),
    ],
)
def test_what_cannot_be_spelled_is_named_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        spell(text, ALPHABET)
    assert "\n" not in str(caught.value)

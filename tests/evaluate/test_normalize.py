"""Text normalisers: a table of texts and what becomes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sewkit.data.importers.writing import to_letters
from sewkit.errors import UserError
from sewkit.evaluate.normalize import NORMALIZERS, find_normalizer
from sewkit.evaluate.numbers import digits_of_words


def test_none_leaves_everything_but_white_space() -> None:
    assert find_normalizer("none")("  Hello,\tWorld \n") == "Hello, World"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("AND MISTER JOHN'S BOYS' TOYS 'TIS", "AND MISTER JOHN'S BOYS' TOYS 'TIS"),
        ("Don\u2019t stop, please!", "DON'T STOP PLEASE"),
        ("twenty-one\u2014and/or snake_case", "TWENTY ONE AND OR SNAKE CASE"),
        ("Café, naïve Straße, Łódź", "CAFE NAIVE STRASSE LODZ"),
        ("3 dogs & 2 cats, e.g.", "DOGS CATS EG"),
        ("' x '", "X"),
        ("日本", ""),
        ("", ""),
    ],
)
def test_librispeech_leaves_capitals_and_apostrophes(text: str, expected: str) -> None:
    assert find_normalizer("librispeech")(text) == expected


@given(st.text("abc'-, XYZ", max_size=20))
def test_librispeech_agrees_with_texts_that_were_imported_as_letters(text: str) -> None:
    imported, _ = to_letters(text)
    assert find_normalizer("librispeech")(imported) == find_normalizer("librispeech")(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, WORLD!", "hello world"),
        ("[laughter] well (aside) <unk> {x} then", "well then"),
        ("uh um so, hmm mhm uhh yes erm", "so yes"),
        ("human summer thumb", "human summer thumb"),
        ("I won't, can't, didn't; it's they're I'd", "i will not can not did not it is they are i would"),
        ("it 's I \u2019m we've she'll", "it is i am we have she will"),
        ("he'd been there and he's got it", "he had been there and he has got it"),
        ("gonna wanna gotta let's y'all", "going to want to got to let us you all"),
        ("Mr. and Mrs. Smith saw Dr. Who", "mister and missus smith saw doctor who"),
        ("the U.S. team, e.g. this", "the us team eg this"),
        ("café naïve", "cafe naive"),
        ("well-known", "well known"),
        ("John's book", "john is book"),
        ("$1 $5 £2.50 €1.50", "1 dollar 5 dollars 2.50 pounds 1.50 euros"),
        ("1,250 men, 50% & 3.5.", "1250 men 50 percent and 3.5"),
        ("five percent, five per cent", "5 percent 5 percent"),
        ("[unclosed bracket", "unclosed bracket"),
        ("", ""),
    ],
)
def test_whisper_english(text: str, expected: str) -> None:
    assert find_normalizer("whisper-english")(text) == expected


@pytest.mark.parametrize(
    ("spoken", "written"),
    [
        ("I won't pay twenty-five dollars", "i will not pay $25"),
        ("two million pounds", "£2 million"),
        ("two million pounds", "£2,000,000"),
        ("three point one four percent", "3.14%"),
        ("um, Mister Smith's", "Mr. Smith's"),
    ],
)
def test_two_ways_to_write_the_same_become_one(spoken: str, written: str) -> None:
    normalize = find_normalizer("whisper-english")
    assert normalize(spoken) == normalize(written)


@pytest.mark.parametrize(
    ("words", "digits"),
    [
        ("zero", "0"),
        ("nineteen", "19"),
        ("twenty one", "21"),
        ("one hundred", "100"),
        ("one hundred and five", "105"),
        ("two hundred and", "200 and"),
        ("two hundred and dogs", "200 and dogs"),
        ("nineteen hundred", "1900"),
        ("three hundred twelve thousand six hundred and one", "312601"),
        ("two million three hundred thousand and one", "2300001"),
        ("five six", "5 6"),
        ("twenty twenty", "20 20"),
        ("nineteen eighty four", "19 84"),
        ("one thousand thousand", "1000 thousand"),
        ("two thousand three million", "2003 million"),
        ("hundred thousand", "hundred thousand"),
        ("a hundred", "a hundred"),
        ("zero five", "0 5"),
        ("one and two", "1 and 2"),
        ("point", "point"),
        ("zero point five six", "0.56"),
        ("the point one made", "the point 1 made"),
        ("2 million", "2000000"),
        ("007 1984 five", "007 1984 5"),
        ("first second", "first second"),
        ("", ""),
    ],
)
def test_cardinal_numbers_become_digits(words: str, digits: str) -> None:
    assert digits_of_words(words) == digits


def in_words(number: int) -> str:
    """The cardinal as it is read, without "and"."""
    names = (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen"
    )
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    for scale, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred")):
        if number >= scale:
            rest = f" {in_words(number % scale)}" if number % scale else ""
            return f"{in_words(number // scale)} {name}{rest}"
    if number < 20:
        return names.split()[number]
    return tens[number // 10] + (f" {in_words(number % 10)}" if number % 10 else "")


@given(st.integers(0, 10**12 - 1))
def test_every_cardinal_is_read_back(number: int) -> None:
    assert digits_of_words(f"about {in_words(number)} dogs") == f"about {number} dogs"


@pytest.mark.parametrize("name", NORMALIZERS)
@given(text=st.text(max_size=40))
def test_any_text_can_be_normalised_and_gives_single_spaces(name: str, text: str) -> None:
    found = NORMALIZERS[name](text)
    assert found == " ".join(found.split())


def test_an_unknown_name_is_one_line_that_names_those_there_are() -> None:
    with pytest.raises(UserError, match="normalizer 'french' is not known; expected none, librispeech, whisper-engl"):
        find_normalizer("french")

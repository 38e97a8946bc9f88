"""Text normalisers by name: what is done to references and hypotheses alike before words are counted.

A rate without the name of its normaliser cannot be compared with another; every report names it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sewkit.data.importers.writing import to_letters
from sewkit.errors import UserError
from sewkit.evaluate.numbers import digits_of_words
from sewkit.text import with_apostrophes


@dataclass(frozen=True)
class Normalizer:
    """A named rule. `description` says in a sentence what it does."""

    name: str
    description: str
    apply: Callable[[str], str]

    def __call__(self, text: str) -> str:
        """The text as it is compared."""
        return self.apply(text)


Rule = tuple[str, str]
"""A regular expression and what stands in its place."""


def _as_written(text: str) -> str:
    return " ".join(text.split())


def _librispeech(text: str) -> str:
    """`sewkit data import --letters`, and beyond that nothing is left but A to Z, apostrophes and spaces."""
    letters, _ = to_letters(_without_accents(text))
    kept = re.sub(r"[^A-Z' ]", "", letters)
    return " ".join(word for word in kept.split() if word.strip("'"))


SPECIAL_LETTERS = str.maketrans(
    {"æ": "ae", "œ": "oe", "ø": "o", "ß": "ss", "đ": "d", "ł": "l"}
    | {"Æ": "AE", "Œ": "OE", "Ø": "O", "ẞ": "SS", "Đ": "D", "Ł": "L"}
)
"""Letters that Unicode does not take apart."""


def _without_accents(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text.translate(SPECIAL_LETTERS))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


APOSTROPHES: tuple[Rule, ...] = ((r"\s+'(?=(?:s|t|d|m|ll|re|ve)\b)", "'"),)
NOT_SPOKEN: tuple[Rule, ...] = (
    (r"\[[^\]]*\]|<[^>]*>|\([^)]*\)|\{[^}]*\}", " "),
    (r"\b(?:u+h+|u+m+|e+r+m+|h+m+|m+h+m+|mm+)\b", " "),
)
SHORT_FORMS: tuple[Rule, ...] = (
    (r"\bain't\b", "aint"),  # of several long forms none is right everywhere
    (r"\bwon't\b", "will not"),
    (r"\bshan't\b", "shall not"),
    (r"\bcan't\b|\bcannot\b", "can not"),
    (r"\blet's\b", "let us"),
    (r"\by'all\b", "you all"),
    (r"\bma'am\b", "madam"),
    (r"\bo'clock\b", "oclock"),
    (r"\b(?:i'ma|imma)\b", "i am going to"),
    (r"\bgonna\b", "going to"),
    (r"\bgotta\b", "got to"),
    (r"\bwanna\b", "want to"),
    (r"\b(would|could|should|must|might)a\b", r"\1 have"),
    (r"'d(?= (?:been|gone|had|done|seen|known)\b)", " had"),
    (r"'s(?= (?:been|got|gone|had|done)\b)", " has"),
    (r"n't\b", " not"),
    (r"'re\b", " are"),
    (r"'ve\b", " have"),
    (r"'ll\b", " will"),
    (r"'d\b", " would"),
    (r"'m\b", " am"),
    (r"'s\b", " is"),  # of "John's book" too: the same on both sides
)
TITLES: tuple[Rule, ...] = (
    (r"\bmr\b\.?", "mister"),
    (r"\bmrs\b\.?", "missus"),
    (r"\bdr\b\.?", "doctor"),
    (r"\bprof\b\.?", "professor"),
    (r"\bst\.(?= \w)", "saint"),
)
CURRENCIES = {"$": "dollar", "£": "pound", "€": "euro"}
SIGNS: tuple[Rule, ...] = (
    (r"(?<=\d),(?=\d{3}\b)", ""),
    *((rf"{re.escape(sign)} ?(1)(?![\d.])", rf"\1 {name}") for sign, name in CURRENCIES.items()),
    *(
        (rf"{re.escape(sign)} ?(\d+(?:\.\d+)?(?: (?:thousand|million|billion|trillion)\b)?)", rf"\1 {name}s")
        for sign, name in CURRENCIES.items()
    ),
    (r"\bper cent\b|%", " percent"),
    (r"&", " and "),
    (r"(?<=\d)\.(?=\d)", "\N{MIDDLE DOT}"),  # a decimal point outlives punctuation
    (r"(?<=\w)\.(?=\w\.)|(?<=\.\w)\.", ""),  # U.S. -> us
    (r"'", ""),
    (r"[^\w\N{MIDDLE DOT}]|_", " "),
    (r"\N{MIDDLE DOT}", "."),
)


def _rewrite(text: str, rules: Sequence[Rule]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


def _whisper_english(text: str) -> str:
    text = _rewrite(with_apostrophes(text.lower()), (*APOSTROPHES, *NOT_SPOKEN, *SHORT_FORMS, *TITLES))
    return digits_of_words(_rewrite(_without_accents(text), SIGNS))


NORMALIZERS = {
    one.name: one
    for one in (
        Normalizer("none", "words are compared as they are written; white space only separates them", _as_written),
        Normalizer(
            "librispeech",
            "capitals A to Z and apostrophes only; accents are dropped, hyphens, dashes, slashes and underscores "
            "separate words, everything else is removed, digits too",
            _librispeech,
        ),
        Normalizer(
            "whisper-english",
            "lower case; bracketed text, fillers (uh, um, hmm, mhm, erm), accents and punctuation removed; common "
            "contractions and titles written out; cardinal numbers, $ £ € % and & as digits and words. Unlike "
            "Whisper's own: no British to American spelling, no ordinals or years, currencies become words, and "
            "digits read one by one stay apart",
            _whisper_english,
        ),
    )
}


def find_normalizer(name: str) -> Normalizer:
    """By its name. Raises UserError naming those there are."""
    if name not in NORMALIZERS:
        raise UserError(f"normalizer {name!r} is not known; expected {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]

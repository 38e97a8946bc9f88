"""From a text as people write it to the labels that a CTC head would give for it, and back to the words as written."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

from sewkit.errors import UserError
from sewkit.text import JOINTS, Alphabet, with_apostrophes

_SPOKEN_PUNCTUATION = "%&@#\u00a7"
"""Signs of Unicode's class of punctuation that are read aloud."""


@dataclass(frozen=True)
class Reference:
    """A text ready to be aligned.

    words: as written, punctuation and all. columns: (U,) ids of the labels that occur, the blank first. labels: (N,)
    the text's labels as positions in `columns`. owners: (N,) which word a label is a letter of, -1 for delimiters.
    letters: the N tokens.
    """

    words: tuple[str, ...]
    columns: np.ndarray
    labels: np.ndarray
    owners: np.ndarray
    letters: tuple[str, ...]


def spell(text: str, alphabet: Alphabet) -> Reference:
    """Text in any case, with punctuation -> Reference.

    Punctuation is silent and stays with its word; an apostrophe is a letter between letters, where the alphabet has it;
    a hyphen or slash parts a word as a space does.

    Raises UserError for a text without a word, and for characters that the alphabet cannot spell.
    """
    words, spoken = _spoken_words(unicodedata.normalize("NFC", text), alphabet)
    if not words:
        found = "only punctuation" if text.strip() else "nothing"
        raise UserError(f"the text to align is empty: expected the words that are spoken, found {found}")
    _check(words, spoken, alphabet)
    between = [alphabet.ids[alphabet.delimiter]] if alphabet.delimiter in alphabet.ids else []
    ids: list[int] = []
    owners: list[int] = []
    for number, parts in enumerate(spoken):
        for part in parts:
            letters = alphabet.encode(part)
            gap = between if ids else []
            ids += gap + letters
            owners += [-1] * len(gap) + [number] * len(letters)
    used = np.unique(ids)
    labels = np.searchsorted(used, ids).astype(np.int32) + 1
    tokens = tuple(alphabet.tokens[index] for index in ids)
    return Reference(tuple(words), np.r_[alphabet.blank, used], labels, np.array(owners, np.int32), tokens)


def _spoken_words(text: str, alphabet: Alphabet) -> tuple[list[str], list[list[str]]]:
    """Words as written, and the parts of each that are spoken. What has no sound goes with the word before it."""
    written: list[str] = []
    spoken: list[list[str]] = []
    waiting = ""  # signs before the first word
    for word in text.split():
        parts = [part for part in (_sounded(piece, alphabet) for piece in JOINTS.split(word)) if part]
        if parts:
            written.append(waiting + word)
            spoken.append(parts)
            waiting = ""
        elif written:
            written[-1] += f" {word}"
        else:
            waiting += f"{word} "
    return written, spoken


def _sounded(piece: str, alphabet: Alphabet) -> str:
    """Without its silent characters."""
    piece = with_apostrophes(piece)
    letters = alphabet.ids.keys() - {alphabet.delimiter} | {"'"}
    kept = "".join(c for c in piece if c in letters or not _is_silent(c)).strip("'")
    return kept if "'" in alphabet.ids else kept.replace("'", "")


def _is_silent(character: str) -> bool:
    # The bar is the delimiter of most alphabets; in a text it is a rule between words.
    return character == "|" or (unicodedata.category(character)[0] in "PC" and character not in _SPOKEN_PUNCTUATION)


def _check(words: list[str], spoken: list[list[str]], alphabet: Alphabet) -> None:
    """Raise UserError naming the characters that cannot be spelled and the first words that hold them."""
    missing: dict[str, None] = {}
    where: list[str] = []
    for word, parts in zip(words, spoken, strict=True):
        if lacking := alphabet.lacking("".join(parts)):
            missing |= dict.fromkeys(lacking)
            where.append(word)
    if missing:
        characters = " ".join(list(missing)[:20])
        examples = ", ".join(where[:3]) + (", ..." if len(where) > 3 else "")
        raise UserError(
            f"the model's alphabet cannot spell {characters} (in {examples}): "
            f"write numbers and signs as the words that are spoken, other letters with those it has"
        )

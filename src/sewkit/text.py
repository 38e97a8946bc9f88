"""Letters: the alphabet of a CTC head, how frame labels become text, apostrophes and dashes as people write them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"
"""The order of fairseq's LibriSpeech dictionary, most frequent first, which the published English heads use."""
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc`\u00b4", "'"))
JOINTS = re.compile(r"[-\u2010-\u2015\ufe58\ufe63\uff0d/_]+")
"""Hyphens, dashes, slashes and underscores: they part a written word into several spoken ones."""


def with_apostrophes(text: str) -> str:
    """All signs that are typed for an apostrophe as the one that alphabets have."""
    return text.translate(_APOSTROPHES)


@dataclass(frozen=True)
class Alphabet:
    """The tokens of a CTC head, by id.

    tokens: one string an id, "" for an id that has no token.
    blank: id of the CTC blank; transformers calls it the pad token.
    delimiter: the token that stands between words, None if there is none.
    special: ids that are never written, beside the blank: sentence marks, unknown, gaps.
    """

    tokens: tuple[str, ...]
    blank: int = 0
    delimiter: str | None = "|"
    special: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.blank < len(self.tokens):
            raise ValueError(f"blank id {self.blank} is not among the {len(self.tokens)} tokens")

    @classmethod
    def english(cls) -> Alphabet:
        """The 32 symbols of the published English models, in transformers' spelling: `<pad>` is the blank."""
        return cls(("<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS), special=frozenset((1, 2, 3)))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def silent(self) -> frozenset[int]:
        """Ids that are never written: the blank and all special ones."""
        return self.special | {self.blank}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each token that can be written; the first id where two share a token."""
        written: dict[str, int] = {}
        for index, token in enumerate(self.tokens):
            if token and index not in self.silent:
                written.setdefault(token, index)
        return written

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.ids), default=1)

    def encode(self, text: str) -> list[int]:
        """Text -> ids, longest token first, in the alphabet's case. White space becomes the delimiter.

        Raises ValueError naming the characters that the alphabet lacks.
        """
        found = list(self._spelling(text))
        if missing := {piece for token_id, piece in found if token_id is None}:
            raise ValueError(f"characters outside the alphabet: {' '.join(sorted(missing))}")
        return [token_id for token_id, _ in found if token_id is not None]

    def lacking(self, text: str) -> list[str]:
        """Characters of a text that no token spells, in order, each once."""
        return list(dict.fromkeys(piece for token_id, piece in self._spelling(text) if token_id is None))

    def _spelling(self, text: str) -> Iterator[tuple[int | None, str]]:
        """(id, or None where no token fits, and what it spells), longest token first."""
        text = (self.delimiter or "").join(text.split())
        position = 0
        while position < len(text):
            token_id, size = self._token_at(text, position)
            yield token_id, text[position : position + size]
            position += size

    def _token_at(self, text: str, position: int) -> tuple[int | None, int]:
        for size in range(min(self._longest, len(text) - position), 0, -1):
            piece = text[position : position + size]
            for spelling in (piece, piece.upper(), piece.lower()):
                if spelling in self.ids:
                    return self.ids[spelling], size
        return None, 1

    def collapse(self, frame_ids: Iterable[int]) -> str:
        """Best label of every frame -> text. Runs become one label, then blanks go: double letters survive."""
        labels = (label for label, _ in itertools.groupby(frame_ids))
        return self.join(label for label in labels if label not in self.silent)

    def join(self, ids: Iterable[int]) -> str:
        """Ids without blanks -> text with single spaces between words."""
        pieces = (" " if self.tokens[index] == self.delimiter else self.tokens[index] for index in ids)
        return " ".join("".join(pieces).split())

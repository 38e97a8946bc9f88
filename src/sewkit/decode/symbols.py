"""What a search over letters needs of an alphabet: silence, the gap between words, and letters.

All outputs that are never written (blank, sentence marks, unknown) count as one silence, and all that separate words as
one gap: greedy decoding treats them so, and the search must sum over the same alignments.
"""

from __future__ import annotations

import numpy as np

from sewkit.errors import UserError
from sewkit.text import Alphabet

SILENCE, GAP = 0, 1
"""Columns of the log probabilities; letters follow."""


class Symbols:
    """The columns of (T, C) log probabilities: silence, gap, then one a letter.

    label_ids: (C,) the alphabet's id that stands for each column; -1 for the gap of an alphabet without one.
    texts: what each column writes.
    """

    def __init__(self, alphabet: Alphabet):
        self.alphabet = alphabet
        self._silent = sorted(alphabet.silent)
        written = [index for index in range(len(alphabet)) if index not in alphabet.silent]
        self._gaps = [index for index in written if is_gap(alphabet.tokens[index], alphabet)]
        self._letters = [index for index in written if index not in self._gaps]
        gap = self._gaps[0] if self._gaps else -1
        self.label_ids = np.array([alphabet.blank, gap, *self._letters], np.int32)
        self.texts = ["", " ", *(alphabet.tokens[index] for index in self._letters)]
        self._column = {index: place for place, index in enumerate(self._letters, start=GAP + 1)}

    def __len__(self) -> int:
        return len(self.label_ids)

    @property
    def has_gap(self) -> bool:
        """Whether the alphabet separates words."""
        return bool(self._gaps)

    def log_probs(self, logits: np.ndarray) -> np.ndarray:
        """(T, V) logits -> (T, C) float64 natural-log probabilities. Raises UserError for another V, and for NaN."""
        if logits.ndim != 2 or logits.shape[1] != len(self.alphabet):
            raise UserError(f"logits of shape {logits.shape}; expected (frames, {len(self.alphabet)}), the alphabet's")
        if len(logits) and not (logits.max(1) < np.inf).all():  # NaN is not below infinity either
            raise UserError("logits hold NaN or infinity; expected finite scores")
        scores = logits.astype(np.float64)
        if len(scores):
            scores -= scores.max(1, keepdims=True)
            scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        return np.column_stack([_log_sum(scores, self._silent), _log_sum(scores, self._gaps), scores[:, self._letters]])

    def spell(self, word: str) -> list[int]:
        """Columns of a word's letters, in the alphabet's case. Raises ValueError naming the characters it lacks."""
        return [self._column[index] for index in self.alphabet.encode(word)]

    def write(self, columns: list[int]) -> str:
        """Letters and gaps -> text with single spaces between words."""
        return " ".join("".join([self.texts[column] for column in columns]).split())


def is_gap(token: str, alphabet: Alphabet) -> bool:
    """Whether a token separates words."""
    return token == alphabet.delimiter or not token.strip()


def _log_sum(scores: np.ndarray, columns: list[int]) -> np.ndarray:
    if not columns:
        return np.full(len(scores), -np.inf)
    return np.logaddexp.reduce(scores[:, columns], axis=1)

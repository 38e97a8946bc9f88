"""Shallow fusion: what a word-level language model adds to hypotheses that are spelled letter by letter.

A word is scored when a gap or the end of the recording completes it: alpha * ln P(word | words before) + beta. Until
then the best word that it can still become stands in for it, without context; that only steers pruning, for it is
taken back when the word is complete. A word that the model does not know gets P(<unk>) and a penalty.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sewkit.decode.lexicon import OUTSIDE, ROOT, Lexicon
from sewkit.decode.lm import LanguageModel, LanguageModelError
from sewkit.decode.symbols import Symbols
from sewkit.errors import UserError

LN10 = math.log(10)
FITTING_SHARE = 0.5
"""Least share of a model's words that the alphabet must be able to spell; less is another alphabet or language."""


@dataclass(frozen=True)
class FusionWeights:
    """Weights of a language model, named as in pyctcdecode's `attrs.json`, which transformers' folders hold.

    alpha: weight of natural-log probabilities. beta: natural-log bonus a word, against the short texts that language
    models prefer. unk_score_offset: log10 penalty of an unknown word, weighted by alpha; -inf allows known words only.
    score_boundary: whether recordings begin and end as sentences do.
    """

    alpha: float = 0.5
    beta: float = 1.5
    unk_score_offset: float = -10.0
    score_boundary: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0 and math.isfinite(self.beta)):
            raise UserError(f"alpha is {self.alpha} and beta {self.beta}; expected finite numbers, alpha not below 0")
        if not self.unk_score_offset <= 0:
            raise UserError(f"unk_score_offset is {self.unk_score_offset}; expected 0 or less")

    def replace(self, *, alpha: float | None = None, beta: float | None = None) -> FusionWeights:
        """The same but for what is given."""
        return dataclasses.replace(
            self, alpha=self.alpha if alpha is None else alpha, beta=self.beta if beta is None else beta
        )


class AnyWord:
    """In place of a lexicon where there is none: letters may form any word."""

    def __init__(self, num_columns: int):
        self.rows = np.zeros((1, num_columns), np.int32)
        self.outside_row = self.root_row = 0

    def row(self, node: int) -> int:
        """The only row."""
        return 0


class WordScorer:
    """Scores of words, complete and begun, as natural logs with their weights.

    start: the language model's state before the first word. lexicon: where begun words stand. promise: (N + 1,) by node
    of the lexicon, what a begun word gets ahead of its score; the last entry is for what begins no known word.
    best_word: no complete word scores more.
    """

    def __init__(
        self,
        symbols: Symbols,
        lm: LanguageModel | None,
        weights: FusionWeights,
        words: Sequence[str] | None = None,
        extra_words: Sequence[str] = (),
    ):
        """words: the lexicon, by default the language model's words. extra_words: known too, if there is a lexicon."""
        self.lm = lm
        self.lexicon: Lexicon | AnyWord = AnyWord(len(symbols))
        words = lm.words() if words is None and lm is not None else words
        if words is not None:
            known, spellings = _spelled(symbols, words, extra_words)
            ids = [lm.id_of(word) if lm else 0 for word in known]
            unknown = lm.unknown if lm else 0
            self._ids = [unknown if index is None else index for index in ids]
            unigrams = np.array([lm.unigram(index) if lm else 0.0 for index in self._ids])
            self.lexicon = Lexicon(spellings, unigrams, len(symbols))
        self._weigh(weights)

    def with_weights(self, weights: FusionWeights) -> WordScorer:
        """The same scorer with other weights; language model and lexicon are shared."""
        other = copy.copy(self)
        other._weigh(weights)
        return other

    def _weigh(self, weights: FusionWeights) -> None:
        self.weights = weights
        self._scale = weights.alpha * LN10
        self._bonus = weights.beta if self.lm else 0.0
        self.best_word = max(self._bonus, 0.0)
        self.start = 0 if self.lm is None else self.lm.start if weights.score_boundary else self.lm.empty
        offset = weights.unk_score_offset
        self._penalty = self._scale * offset if math.isfinite(offset) else offset  # never 0 times infinity
        self._cache: dict[tuple[int, int], tuple[float, int]] = {}
        self.promise = np.zeros(1)
        if isinstance(self.lexicon, Lexicon):
            unknown = self.lm.unigram(self.lm.unknown) if self.lm else 0.0
            known = self._scale * self.lexicon.best + self._bonus
            self.promise = np.append(known, self._scale * unknown + self._bonus + self._penalty)
            self.promise[ROOT] = 0.0

    def finish(self, state: int, node: int, spelled: Callable[[], str]) -> tuple[float, int]:
        """Score of the complete word at a node of the lexicon, and the state after it.

        spelled: tells the word, which is asked only where there is no lexicon.
        """
        if isinstance(self.lexicon, AnyWord):
            return (0.0, state) if self.lm is None else self._score(state, self._look_up(self.lm, spelled()))
        word = -1 if node == OUTSIDE else int(self.lexicon.word[node])
        return self._score(state, None if word < 0 else self._ids[word])

    @staticmethod
    def _look_up(lm: LanguageModel, word: str) -> int | None:
        found = (lm.id_of(spelling) for spelling in (word, word.lower(), word.upper()))
        return next((index for index in found if index is not None), None)

    def _score(self, state: int, word: int | None) -> tuple[float, int]:
        """word: None for one that is not known."""
        if self.lm is None:
            return (self._penalty if word is None else 0.0), state
        index = -1 if word is None else word
        found = self._cache.get((state, index))
        if found is None:
            log10_prob, after = self.lm.score(state, self.lm.unknown if word is None else word)
            penalty = self._penalty if word is None else 0.0
            found = self._cache[state, index] = self._scale * log10_prob + self._bonus + penalty, after
        return found

    def end(self, state: int) -> float:
        """Score of ending the sentence."""
        return self._scale * self.lm.end(state) if self.lm and self.weights.score_boundary else 0.0


def _spelled(symbols: Symbols, words: Sequence[str], extra_words: Sequence[str]) -> tuple[list[str], list[list[int]]]:
    """The words that the alphabet can spell, with their columns. Raises LanguageModelError if they are too few."""
    known, spellings, lost = [], [], []
    for word in [*words, *extra_words]:
        try:
            spellings.append(symbols.spell(word))
            known.append(word)
        except ValueError:
            lost.append(word)
    if len(lost) > (1 - FITTING_SHARE) * len(words):
        letters = "".join(token for token in symbols.alphabet.ids if len(token) == 1)
        raise LanguageModelError(
            f"{len(lost)} of the language model's {len(words)} words, such as {lost[0]!r}, can't be spelled with the "
            f"speech model's letters, {letters}; build a language model from text in that alphabet"
        )
    return known, spellings

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
from typing import NamedTuple

import numpy as np

from sewkit.decode.hotwords import Hotwords
from sewkit.decode.lexicon import OUTSIDE, ROOT, Lexicon
from sewkit.decode.lm import LanguageModel, LanguageModelError
from sewkit.decode.symbols import GAP, Symbols
from sewkit.errors import UserError

LN10 = math.log(10)
USUAL_LENGTH = 6
"""Letters of a word. An unknown word of more costs more in proportion: else it would pay to glue words together."""
LARGEST_EXPONENT = 600.0
MOST_REMEMBERED = 2**18
"""Scores of words in context, and as many words begun, that are kept for when they come again: 200 MB at most."""
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


class History(NamedTuple):
    """The complete words of a prefix.

    state: the language model's after them. earned: all that they are worth, a natural log. hot: hotwords' part of it.
    """

    state: int
    earned: float
    hot: float


class Spelling(dict[int, "tuple[Spelling, float]"]):
    """A word begun, as far as scores can tell it from others. spelling[column] -> (with this letter more, ratio).

    ratio: what it is worth then in proportion to what it was worth before; found out once, when first asked for.
    node: where it stands in the lexicon. watch: state of the hotwords. length: its letters. ahead: what it is given
    ahead of its score, a natural log. hope: no complete word is worth more in proportion to this one.
    """

    __slots__ = ("_scorer", "ahead", "hope", "length", "node", "watch")

    def __init__(self, scorer: WordScorer, node: int, watch: int, length: int):
        self.node, self.watch, self.length = node, watch, length
        self.ahead = scorer.promise(node, watch, length)
        self.hope = ratio(scorer.most, self.ahead)
        self._scorer = scorer

    def __missing__(self, column: int) -> tuple[Spelling, float]:
        longer = self._scorer.longer(self, column)
        self[column] = found = longer, ratio(longer.ahead, self.ahead)
        return found


def ratio(after: float, before: float) -> float:
    """Of two scores, natural logs, how many times the first is the second."""
    return math.exp(min(after - before, LARGEST_EXPONENT))


class WordScorer:
    """Scores of words, complete and begun, as natural logs with their weights.

    lexicon: the known words, None where letters may form any word. most: no complete word is worth more.
    """

    def __init__(
        self,
        symbols: Symbols,
        lm: LanguageModel | None,
        weights: FusionWeights,
        words: Sequence[str] | None = None,
        hotwords: Hotwords | None = None,
    ):
        """words: the lexicon, by default the language model's words. Those of hotwords are known too."""
        self.lm, self._symbols = lm, symbols
        self._hotwords = hotwords or Hotwords((), symbols)
        self.lexicon: Lexicon | None = None
        words = lm.words() if words is None and lm is not None else words
        if words is not None:
            known, spellings = _spelled(symbols, words, self._hotwords.words)
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
        self.most = max(self._bonus, 0.0) + self._hotwords.most
        self._scores: dict[tuple[int, int], tuple[float, int]] = {}
        self._begun: dict[tuple[int, int, int], Spelling] = {}

    # ---- words begun

    def start(self) -> tuple[History, Spelling]:
        """Before the first word, as after a gap."""
        state = 0 if self.lm is None else self.lm.start if self.weights.score_boundary else self.lm.empty
        return History(state, 0.0, 0.0), self._spelling(ROOT, self._hotwords.start, 0)

    def longer(self, spelling: Spelling, column: int) -> Spelling:
        """A word with one letter more."""
        node = ROOT if self.lexicon is None else self.lexicon.child(spelling.node, column)
        length = 0 if self.lexicon is None else spelling.length + 1
        return self._spelling(node, int(self._hotwords.following[spelling.watch, column]), length)

    def _spelling(self, node: int, watch: int, length: int) -> Spelling:
        key = node, watch, length
        if (found := self._begun.get(key)) is None:
            if len(self._begun) >= MOST_REMEMBERED:
                self._begun.clear()
            found = self._begun[key] = Spelling(self, node, watch, length)
        return found

    def promise(self, node: int, watch: int, length: int) -> float:
        """What a word begun gets ahead: the score of the best word that it can become, without context."""
        hot = float(self._hotwords.promise[watch])
        if self.lexicon is None or node == ROOT:
            return hot
        if node != OUTSIDE:
            return self._scale * float(self.lexicon.best[node]) + self._bonus + hot
        unigram = self.lm.unigram(self.lm.unknown) if self.lm else 0.0
        return self._scale * unigram + self._bonus + self._penalty(length) + hot

    # ---- complete words

    def finish(
        self, history: History, spelling: Spelling, spelled: Callable[[], list[int]]
    ) -> tuple[History, Spelling]:
        """What is known after a gap that makes the word begun a complete one.

        spelled: tells its columns, which are asked for only where there is no lexicon.
        """
        score, state = self._score(history.state, spelling, spelled)
        watch = int(self._hotwords.following[spelling.watch, GAP])
        bonus = float(self._hotwords.bonus[watch])
        after = History(state, history.earned + score + bonus, history.hot + bonus)
        return after, self._spelling(ROOT, watch, 0)

    def _score(self, state: int, spelling: Spelling, spelled: Callable[[], list[int]]) -> tuple[float, int]:
        if self.lexicon is not None:
            word = -1 if spelling.node == OUTSIDE else int(self.lexicon.word[spelling.node])
            return self._score_of(state, None if word < 0 else self._ids[word], spelling.length)
        if self.lm is None:
            return 0.0, state
        columns = spelled()
        return self._score_of(state, self._look_up(self.lm, self._symbols.write(columns)), len(columns))

    @staticmethod
    def _look_up(lm: LanguageModel, word: str) -> int | None:
        found = (lm.id_of(spelling) for spelling in (word, word.lower(), word.upper()))
        return next((index for index in found if index is not None), None)

    def _score_of(self, state: int, word: int | None, length: int) -> tuple[float, int]:
        """word: None for one that is not known."""
        penalty = self._penalty(length) if word is None else 0.0
        if self.lm is None:
            return penalty, state
        key = state, self.lm.unknown if word is None else word
        found = self._scores.get(key)
        if found is None:
            if len(self._scores) >= MOST_REMEMBERED:
                self._scores.clear()
            log10_prob, after = self.lm.score(*key)
            found = self._scores[key] = self._scale * log10_prob + self._bonus, after
        return found[0] + penalty, found[1]

    def _penalty(self, length: int) -> float:
        """Of an unknown word."""
        offset = self.weights.unk_score_offset * max(1.0, length / USUAL_LENGTH)
        return self._scale * offset if math.isfinite(offset) else offset  # never 0 times infinity

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

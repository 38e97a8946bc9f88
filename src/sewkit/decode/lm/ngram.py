"""Back-off n-gram models in memory: log10 P(word | context), exact as the ARPA format defines it.

The n-grams form a trie in level order: node 0 is the empty context, nodes 1 to V are the unigrams by word id, then come
the bigrams sorted by context and word, and so on, so that the continuations of a context lie side by side. 20 bytes a
node. A state, what a model remembers of the words so far, is the number of the longest node that ends in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np

from sewkit.decode.lm.arpa import Arpa, LanguageModelError, NGrams

BOS, EOS, UNK = "<s>", "</s>", "<unk>"
MISSING_UNK = -100.0
"""log10 probability of an unknown word in a model without <unk>; KenLM's."""


class NGramModel:
    """A language model to query word by word.

    order: length of its longest n-grams. path: the file that it was read from, None for one built in memory.
    vocabulary: word by id. ids: id by word. start: the state after <s>.
    """

    def __init__(self, arpa: Arpa, path: Path | None = None):
        name = str(path or "model")
        self.path = path
        arpa = _with_unk(arpa)
        self.order = len(arpa.orders)
        self.vocabulary = arpa.vocabulary
        self.ids = {word: index for index, word in enumerate(arpa.vocabulary)}
        if missing := [mark for mark in (BOS, EOS) if mark not in self.ids]:
            raise LanguageModelError(f"{name}: the 1-grams lack {' and '.join(missing)}; build it with sentence marks")
        self.unknown = self.ids[UNK]
        self._fill(_Trie(arpa, name))
        self.empty, self.start = 0, 1 + self.ids[BOS]

    def _fill(self, trie: _Trie) -> None:
        # Memory views: reading one number through them costs a third of what it costs through numpy.
        self._word, self._suffix, self._first = (_integers(array) for array in (trie.word, trie.suffix, trie.first))
        self._prob, self._backoff = _floats(trie.prob), _floats(trie.backoff)
        # A unigram model remembers nothing: its nodes have the root as suffix.
        self._first_of_highest = trie.bases[-1]
        for node, context in trie.blanks:  # as probable as backing off makes them
            self._prob[node], _ = self._backed_off(context, self._word[node])

    def id_of(self, word: str) -> int | None:
        """Id of a word that the model knows, None for others."""
        return self.ids.get(word)

    def score(self, state: int, word: int) -> tuple[float, int]:
        """log10 P(word | state), and the state after the word."""
        child = self._child(state, word)
        return self._found(child) if child else self._backed_off(state, word)

    def end(self, state: int) -> float:
        """log10 P(</s> | state)."""
        return self.score(state, self.ids[EOS])[0]

    def words(self) -> list[str]:
        """The words that it knows, without sentence marks."""
        return [word for word in self.vocabulary if word not in (BOS, EOS, UNK)]

    def unigram(self, word: int) -> float:
        """log10 P(word), without context."""
        return self._prob[1 + word]

    def word_scores(self, words: Iterable[str]) -> list[float]:
        """log10 probability of each word of a sentence, then of its end."""
        scores, state = [], self.start
        for word in words:
            score, state = self.score(state, self.ids.get(word, self.unknown))
            scores.append(score)
        return [*scores, self.end(state)]

    def _backed_off(self, state: int, word: int) -> tuple[float, int]:
        """The score where `state` is not followed by `word` in the model: shorter contexts, each with its weight."""
        weight = 0.0
        while True:
            weight += self._backoff[state]
            state = self._suffix[state]
            if child := self._child(state, word):
                score, state = self._found(child)
                return weight + score, state

    def _found(self, node: int) -> tuple[float, int]:
        # The longest n-grams have no continuations: all that counts of them is the longest suffix.
        return self._prob[node], node if node < self._first_of_highest else self._suffix[node]

    def _child(self, state: int, word: int) -> int:
        """The node of `state` followed by `word`, 0 if the model lacks it."""
        if state == 0:
            return 1 + word
        low, high = self._first[state], self._first[state + 1]
        words = self._word
        while low < high:
            middle = (low + high) >> 1
            found = words[middle]
            if found == word:
                return middle
            if found < word:
                low = middle + 1
            else:
                high = middle
        return 0


def _with_unk(arpa: Arpa) -> Arpa:
    """The same model, `<unk>` among its words: some toolkits spell it in capitals, some leave it out."""
    if UNK in arpa.vocabulary:
        return arpa
    if UNK.upper() in arpa.vocabulary:
        return Arpa([UNK if word == UNK.upper() else word for word in arpa.vocabulary], arpa.orders)
    unigrams = arpa.orders[0]
    row = NGrams(
        np.array([[len(arpa.vocabulary)]], np.int32), np.array([MISSING_UNK], np.float32), np.zeros(1, np.float32)
    )
    extended = NGrams(*(np.concatenate(pair) for pair in zip(unigrams, row, strict=True)))
    return Arpa([*arpa.vocabulary, UNK], [extended, *arpa.orders[1:]])


def _integers(array: np.ndarray) -> memoryview[int]:
    return cast("memoryview[int]", memoryview(array.astype(np.int32)))  # type: ignore[arg-type]


def _floats(array: np.ndarray) -> memoryview[float]:
    return cast("memoryview[float]", memoryview(array.astype(np.float32)))  # type: ignore[arg-type]


class _Trie:
    """The arrays of the nodes. `keys[n]` holds, sorted, context node * V + word of the n-grams of order n + 1."""

    def __init__(self, arpa: Arpa, name: str):
        self.size = len(arpa.vocabulary)
        self.bases, self.keys = [1], [np.arange(self.size, dtype=np.int64)]
        levels, contexts = self._levels(arpa, name)
        root = np.zeros(1, np.float32)
        self.word = np.concatenate([root.astype(np.int32), *(level.words[:, -1] for level in levels)])
        self.prob = np.concatenate([root, *(level.log10_prob for level in levels)])
        self.backoff = np.concatenate([root, *(level.log10_backoff for level in levels)])
        suffixes = [self._longest_suffix(level.words) for level in levels]
        self.suffix = np.concatenate([root, *suffixes]).astype(np.int32)
        context = np.concatenate([[-1], *contexts])  # rises, because each level is sorted by it
        self.first = np.searchsorted(context, np.arange(len(context) + 1)).astype(np.int32)
        self.blanks = [(int(node), int(context[node])) for node in np.flatnonzero(np.isnan(self.prob))]

    def _levels(self, arpa: Arpa, name: str) -> tuple[list[NGrams], list[np.ndarray]]:
        """The n-grams of each order sorted by context node and word, and those nodes.

        Contexts that a pruning toolkit left out are added, with probability NaN and weight 1.
        """
        levels, contexts = list(arpa.orders), [np.zeros(self.size, np.int64)]
        level = 1
        while level < len(levels):
            nodes = self.find(levels[level].words[:, :-1])
            if (lost := nodes < 0).any():
                levels[level - 1] = _with_blanks(levels[level - 1], levels[level].words[lost, :-1])
                level -= 1  # the contexts of the added ones may be missing too
                del self.bases[level:], self.keys[level:], contexts[level:]
                continue
            keys = nodes * self.size + levels[level].words[:, -1]
            order = np.argsort(keys)
            levels[level] = NGrams(*(column[order] for column in levels[level]))
            if (twice := np.flatnonzero(np.diff(keys[order]) == 0)).size:
                text = " ".join(arpa.vocabulary[word] for word in levels[level].words[twice[0]])
                raise LanguageModelError(f"{name}: the {level + 1}-gram {text!r} stands twice; remove one of them")
            self.bases.append(self.bases[-1] + len(self.keys[-1]))
            self.keys.append(keys[order])
            contexts.append(nodes[order])
            level += 1
        return levels, contexts

    def find(self, words: np.ndarray) -> np.ndarray:
        """(M, k) word ids -> (M,) nodes of these k-grams, -1 for those that the model lacks."""
        nodes = np.zeros(len(words), np.int64)
        for base, keys, column in zip(self.bases, self.keys, words.T, strict=False):
            wanted = np.where(nodes < 0, -1, nodes * self.size + column)
            places = np.searchsorted(keys, wanted)
            hits = np.append(keys, -2)[places] == wanted
            nodes = np.where(hits, base + places, -1)
        return nodes

    def _longest_suffix(self, words: np.ndarray) -> np.ndarray:
        """Node of the longest suffix that the model has; contexts that it lacks have weight 1, so they are skipped."""
        nodes = np.full(len(words), -1, np.int64)
        for begin in range(1, words.shape[1] + 1):
            lost = np.flatnonzero(nodes < 0)
            nodes[lost] = self.find(words[lost, begin:])
        return nodes


def _with_blanks(ngrams: NGrams, words: np.ndarray) -> NGrams:
    words = np.unique(words, axis=0)
    blank = NGrams(words, np.full(len(words), np.nan, np.float32), np.zeros(len(words), np.float32))
    return NGrams(*(np.concatenate(pair) for pair in zip(ngrams, blank, strict=True)))

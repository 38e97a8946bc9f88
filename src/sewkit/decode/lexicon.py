"""Known words as a trie of letters: which hypotheses can still become words, and how good ones.

Built level by level in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

OUTSIDE = -1
"""The node of letters that begin no known word."""
ROOT = 0


class Lexicon:
    """Nodes are numbered from the root, level by level.

    word: (N,) index of the word that ends at a node, -1 for none. best: (N,) highest score of a word at or below it.
    """

    def __init__(self, spellings: Sequence[Sequence[int]], scores: np.ndarray, num_columns: int):
        """spellings[i]: columns of word i. scores: (words,). Of words spelled alike the best one counts."""
        self.num_columns = num_columns
        lengths = np.array([len(spelling) for spelling in spellings], np.int64)
        letters = np.fromiter((column for spelling in spellings for column in spelling), np.int64, int(lengths.sum()))
        starts = np.cumsum(lengths) - lengths
        at = np.zeros(len(lengths), np.int64)  # the node that each word has reached
        levels: list[np.ndarray] = []
        size = 1
        for depth in range(int(lengths.max(initial=0))):
            going = np.flatnonzero(lengths > depth)
            keys, places = np.unique(at[going] * num_columns + letters[starts[going] + depth], return_inverse=True)
            at[going] = size + places
            levels.append(keys)
            size += len(keys)
        self._keys = np.concatenate([np.zeros(0, np.int64), *levels])  # of node n at n - 1; they rise
        self._mark_words(at, lengths, scores, size)
        self._spread_best([len(keys) for keys in levels])

    def _mark_words(self, ends: np.ndarray, lengths: np.ndarray, scores: np.ndarray, size: int) -> None:
        self.word = np.full(size, -1, np.int64)
        self.best = np.full(size, -np.inf)
        rising = np.argsort(scores, kind="stable")
        rising = rising[lengths[rising] > 0]
        self.word[ends[rising]] = rising  # the last write, the best word, stays
        self.best[ends[rising]] = scores[rising]

    def _spread_best(self, sizes: list[int]) -> None:
        end = len(self.best)
        for size in reversed(sizes):
            children = slice(end - size, end)
            np.maximum.at(self.best, self._keys[end - size - 1 : end - 1] // self.num_columns, self.best[children])
            end -= size

    def child(self, node: int, column: int) -> int:
        """The node of one letter more, `OUTSIDE` where no word goes on with it."""
        key = node * self.num_columns + column
        place = int(np.searchsorted(self._keys, key)) if node != OUTSIDE else len(self._keys)
        return place + 1 if place < len(self._keys) and self._keys[place] == key else OUTSIDE

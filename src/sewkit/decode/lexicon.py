"""Known words as a trie of letters: which hypotheses can still become words, and how good ones.

Built level by level in numpy. While the search runs, only the nodes that it visits get a dense row of children.
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
        self._rows = np.zeros((64, num_columns), np.int32)
        self._row_of: dict[int, int] = {}
        self.outside_row, self.root_row = self.row(OUTSIDE), self.row(ROOT)

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

    @property
    def rows(self) -> np.ndarray:
        """(R, C) children of the nodes visited so far, `OUTSIDE` where there is none."""
        return self._rows

    def row(self, node: int) -> int:
        """The row that holds a node's children."""
        found = self._row_of.get(node)
        if found is None:
            found = self._row_of[node] = len(self._row_of)
            if found == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._rows[found] = self._children(node)
        return found

    def _children(self, node: int) -> np.ndarray:
        row = np.full(self.num_columns, OUTSIDE, np.int32)
        if node != OUTSIDE:
            low, high = np.searchsorted(self._keys, [node * self.num_columns, (node + 1) * self.num_columns])
            row[self._keys[low:high] - node * self.num_columns] = np.arange(low + 1, high + 1)
        return row

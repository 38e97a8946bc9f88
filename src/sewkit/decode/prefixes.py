"""The prefixes of a search as a tree: a prefix is its parent and one symbol more. Equal prefixes have equal numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

ROOT_PREFIX = 0
_NOWHERE = -1


class PrefixTree:
    """Prefixes by number; the root is the empty one."""

    def __init__(self, num_columns: int):
        self._num_columns = num_columns
        self._children: dict[int, int] = {}
        self._columns: list[int] = [_NOWHERE]
        self._parents = np.full(1024, _NOWHERE)
        # Scratch: place in the beam of each prefix; the last entry, which -1 reads, stands for no prefix.
        self._places = np.full(1025, _NOWHERE)

    def __len__(self) -> int:
        return len(self._columns)

    def child(self, parent: int, column: int) -> int:
        """The number of `parent` with one symbol more; given on sight."""
        key = parent * self._num_columns + column
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = len(self._columns)
            self._columns.append(column)
            if found == len(self._parents):
                self._parents = np.concatenate([self._parents, np.full_like(self._parents, _NOWHERE)])
                self._places = np.full(2 * found + 1, _NOWHERE)
            self._parents[found] = parent
        return found

    def places_of_parents(self, prefixes: np.ndarray) -> np.ndarray:
        """(B,) prefixes -> (B,) where the parent of each stands among them, -1 where it does not."""
        self._places[prefixes] = np.arange(len(prefixes))
        found = self._places[self._parents[prefixes]]
        self._places[prefixes] = _NOWHERE
        return found

    def columns(self, prefix: int) -> list[int]:
        """The symbols of a prefix, from the root's end on."""
        found = []
        while prefix != ROOT_PREFIX:
            found.append(self._columns[prefix])
            prefix = int(self._parents[prefix])
        return found[::-1]

    def columns_since(self, prefix: int, column: int) -> list[int]:
        """The symbols of a prefix after the last one that is `column`."""
        found: list[int] = []
        while prefix != ROOT_PREFIX and self._columns[prefix] != column:
            found.append(self._columns[prefix])
            prefix = int(self._parents[prefix])
        return found[::-1]

    def rerooted(self, prefixes: Iterable[int], depth: int) -> tuple[PrefixTree, list[int]]:
        """A tree that holds these prefixes without their first `depth` symbols, which they share; and their numbers."""
        tree, numbers = PrefixTree(self._num_columns), []
        for prefix in prefixes:
            node = ROOT_PREFIX
            for column in self.columns(prefix)[depth:]:
                node = tree.child(node, column)
            numbers.append(node)
        return tree, numbers

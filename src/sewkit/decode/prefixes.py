"""The prefixes of a search as a tree: a prefix is its parent and one symbol more, so equal prefixes are one object."""

from __future__ import annotations

from collections.abc import Iterator

from sewkit.decode.fusion import History, Spelling
from sewkit.decode.symbols import GAP


class Prefix:
    """Letters and gaps, without blanks or repeats. The first gap is the root: nothing was said before it.

    column: the last symbol. history: the complete words. spelling: the word begun. ratio: what both are worth in
    proportion to what the parent's are. silent, voiced: probability of all alignments that end in silence, and in the
    last symbol, weighted with what the words are worth. alive: whether the search still follows it. children: by their
    last symbol those that are alive or have children. complete: what the next gap will make of history and spelling,
    and the ratio then; None until asked for.
    """

    __slots__ = (
        "alive",
        "children",
        "column",
        "complete",
        "history",
        "parent",
        "ratio",
        "silent",
        "spelling",
        "voiced",
    )

    def __init__(
        self, parent: Prefix | None, column: int, history: History, spelling: Spelling, ratio: float, voiced: float
    ):
        self.parent, self.column, self.history, self.spelling, self.ratio = parent, column, history, spelling, ratio
        self.silent, self.voiced = 0.0, voiced
        self.alive = True
        self.children: dict[int, Prefix] = {}
        self.complete: tuple[History, Spelling, float] | None = None

    def leave(self) -> None:
        """Not followed any more: where nothing else needs it, nor what it grew from, they leave the tree."""
        self.alive = False
        prefix, parent = self, self.parent
        while parent is not None and not (prefix.alive or prefix.children):
            del parent.children[prefix.column]
            prefix, parent = parent, parent.parent

    def lineage(self) -> Iterator[Prefix]:
        """Itself, its parent, and so on, the root included."""
        prefix: Prefix | None = self
        while prefix is not None:
            yield prefix
            prefix = prefix.parent

    def columns(self) -> list[int]:
        """Its symbols, without the root's."""
        return [prefix.column for prefix in self.lineage()][-2::-1]

    def word(self) -> list[int]:
        """Its symbols after the last gap."""
        found, prefix = [], self
        while prefix.column != GAP:
            found.append(prefix.column)
            assert prefix.parent is not None
            prefix = prefix.parent
        return found[::-1]

    @property
    def acoustic(self) -> float:
        """Weighted probability of all its alignments."""
        return self.silent + self.voiced


def last_shared_gap(prefixes: list[Prefix]) -> Prefix:
    """The longest prefix of whole words that all of them begin with."""
    shared = set(prefixes[0].lineage())
    for prefix in prefixes[1:]:
        shared.intersection_update(prefix.lineage())
    return next(prefix for prefix in prefixes[0].lineage() if prefix in shared and prefix.column == GAP)

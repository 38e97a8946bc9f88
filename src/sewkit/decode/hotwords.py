"""Words and phrases that the search should favour: all of them watched at once with an Aho-Corasick automaton.

A hotword counts where it stands as whole words. Its weight, in natural-log units, is added to a hypothesis for each
time it stands there; while it is being spelled, a share of the weight keeps the hypothesis alive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

import numpy as np

from sewkit.decode.symbols import GAP, Symbols
from sewkit.errors import UserError

DEFAULT_WEIGHT = 5.0
"""Of a hotword that comes without one: e^5, about 150 times as probable as without it."""


def parse_hotword(text: str) -> tuple[str, float]:
    """`WORD`, `WORD=WEIGHT` or `SOME WORDS=WEIGHT`. Raises UserError."""
    word, equals, weight = text.rpartition("=") if "=" in text else (text, "", "")
    try:
        value = float(weight) if equals else DEFAULT_WEIGHT
    except ValueError:
        value = float("nan")
    if not word.strip() or not np.isfinite(value):
        raise UserError(f"hotword {text!r}: expected WORD or WORD=WEIGHT, such as SEWKIT=5")
    return " ".join(word.split()), value


class Hotwords:
    """The automaton, as arrays over its states.

    start: the state of an empty hypothesis. following: (N, C) the state after each symbol. bonus: (N,) what has been
    earned on arriving in a state. promise: (N,) the share of a weight that a state gets ahead of the full hotword.
    most: of both together, the largest.
    """

    def __init__(self, weights: Mapping[str, float] | Iterable[str], symbols: Symbols):
        if isinstance(weights, str):
            raise UserError(f"hotwords is the string {weights!r}; expected a list of words, or a dict word -> weight")
        pairs = weights.items() if isinstance(weights, Mapping) else [(word, DEFAULT_WEIGHT) for word in weights]
        self._children: list[dict[int, int]] = [{}]
        self._own_bonus, self._own_promise = [0.0], [0.0]
        self.words: list[str] = []
        """Every single word of the hotwords."""
        for text, weight in pairs:
            self._add(_spell(text, symbols), weight)
            self.words += text.split()
        self._link(len(symbols))
        # A hypothesis begins as if a gap had gone before: hotwords are whole words.
        self.start = int(self.following[0, GAP])
        self.most = float((self.bonus + self.promise).max())

    def __len__(self) -> int:
        return len(self._children)

    def _add(self, pattern: list[int], weight: float) -> None:
        node = 0
        for place, column in enumerate(pattern):
            if column not in self._children[node]:
                self._children[node][column] = len(self._children)
                self._children.append({})
                self._own_bonus.append(0.0)
                self._own_promise.append(0.0)
            node = self._children[node][column]
            share = place / (len(pattern) - 1)  # the first gap earns nothing
            self._own_promise[node] = max(self._own_promise[node], weight * share if share < 1 else 0.0)
        self._own_bonus[node] += weight

    def _link(self, num_columns: int) -> None:
        """Fill the tables breadth first: where no pattern goes on, its longest suffix that is in the trie does."""
        self.following = np.zeros((len(self), num_columns), np.int32)
        self.bonus, self.promise = np.array(self._own_bonus), np.array(self._own_promise)
        queue = deque((child, 0) for child in self._children[0].values())
        for column, child in self._children[0].items():
            self.following[0, column] = child
        while queue:
            node, fallback = queue.popleft()
            self.bonus[node] += self.bonus[fallback]
            self.promise[node] = max(self.promise[node], self.promise[fallback])
            self.following[node] = self.following[fallback]
            for column, child in self._children[node].items():
                queue.append((child, int(self.following[fallback, column])))
                self.following[node, column] = child


def _spell(text: str, symbols: Symbols) -> list[int]:
    """A hotword between gaps. Raises UserError naming the characters that the alphabet lacks."""
    words = text.split()
    if not words:
        raise UserError("a hotword is empty")
    try:
        pattern = [GAP]
        for word in words:
            pattern += [*symbols.spell(word), GAP]
    except (ValueError, KeyError) as error:
        raise UserError(f"hotword {text!r}: {error}; spell it with the model's letters") from error
    return pattern

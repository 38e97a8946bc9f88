"""KenLM's binary files, through its own Python module (the `lm` extra)."""

from __future__ import annotations

import mmap
import os
import warnings
from pathlib import Path
from typing import Any

from sewkit.decode.lm.arpa import LanguageModelError
from sewkit.errors import MissingExtraError

MAGIC = b"mmap lm http://kheafield.com/code"


def is_kenlm_binary(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as KenLM's binary files do."""
    with Path(path).open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _listed_words(path: str | os.PathLike[str]) -> list[str] | None:
    """The words at the end of a binary file, where KenLM's build_binary puts them, zero bytes between; None if not."""
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begin = content.rfind(b"<unk>\0")
        if begin < 0:
            return None
        return [word.decode("utf-8", "replace") for word in content[begin:].split(b"\0") if word]


class KenLMModel:
    """A KenLM model behind the interface of `NGramModel`. KenLM does not tell its ids, so they are given on sight."""

    def __init__(self, path: str | os.PathLike[str]):
        try:
            import kenlm  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise MissingExtraError(f"{path} is a KenLM binary, and reading it", "lm") from None
        self.path = Path(path)
        self._new_state: Any = kenlm.State
        try:
            self._model = kenlm.Model(os.fspath(path))
        except (OSError, RuntimeError) as error:
            raise LanguageModelError(f"{path}: KenLM can't read it: {error}") from error
        self.order: int = self._model.order
        self.vocabulary: list[str] = ["<unk>"]
        self.ids: dict[str, int] = {"<unk>": 0}
        self.unknown = 0
        self._states = [self._new_state(), self._new_state()]
        self._numbers: dict[Any, int] = {}
        self.empty, self.start = 0, 1
        self._model.NullContextWrite(self._states[self.empty])
        self._model.BeginSentenceWrite(self._states[self.start])

    def words(self) -> list[str] | None:
        """The words that it knows, without sentence marks; None, with a warning, if its file does not list them."""
        found = _listed_words(self.path)
        known = [word for word in found or [] if word not in ("<unk>", "<s>", "</s>")]
        if not known or not all(word in self._model for word in known):
            message = f"{self.path}: lists no words; without a lexicon (unigrams.txt) words are easily glued together"
            warnings.warn(message, stacklevel=2)
            return None
        return known

    def unigram(self, word: int) -> float:
        """log10 P(word), without context."""
        return self._model.BaseScore(self._states[self.empty], self.vocabulary[word], self._new_state())

    def id_of(self, word: str) -> int | None:
        """Id of a word that the model knows, None for others."""
        if word not in self._model:
            return None
        if word not in self.ids:
            self.ids[word] = len(self.vocabulary)
            self.vocabulary.append(word)
        return self.ids[word]

    def score(self, state: int, word: int) -> tuple[float, int]:
        """log10 P(word | state), and the state after the word."""
        after = self._new_state()
        score = self._model.BaseScore(self._states[state], self.vocabulary[word], after)
        number = self._numbers.setdefault(after, len(self._states))
        if number == len(self._states):
            self._states.append(after)
        return score, number

    def end(self, state: int) -> float:
        """log10 P(</s> | state)."""
        return self._model.BaseScore(self._states[state], "</s>", self._new_state())

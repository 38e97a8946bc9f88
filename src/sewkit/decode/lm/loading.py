"""One way in for language models: ARPA, gzipped ARPA, KenLM binary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from sewkit.decode.lm.arpa import LanguageModelError, read_arpa
from sewkit.decode.lm.kenlm import KenLMModel, is_kenlm_binary
from sewkit.decode.lm.ngram import NGramModel


class LanguageModel(Protocol):
    """What the search asks of a language model. States and words are numbers; scores are log10 probabilities."""

    order: int

    @property
    def path(self) -> Path | None:
        """The file that it was read from, None for one built in memory."""

    empty: int
    """The state that knows of no words before."""
    start: int
    """The state at the beginning of a sentence."""
    unknown: int

    def words(self) -> list[str] | None:
        """The words that it knows, without sentence marks; None if it can't tell."""

    def unigram(self, word: int) -> float:
        """log10 P(word), without context."""

    def id_of(self, word: str) -> int | None:
        """Id of a word that the model knows, None for others."""

    def score(self, state: int, word: int) -> tuple[float, int]:
        """log10 P(word | state), and the state after the word."""

    def end(self, state: int) -> float:
        """log10 P(</s> | state)."""


def load_lm(path: str | os.PathLike[str]) -> NGramModel | KenLMModel:
    """Read a language model of any kind. Raises LanguageModelError, for an ARPA file with the line."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise LanguageModelError(f"{path}: no such file; expected an ARPA file (.arpa, .arpa.gz) or a KenLM binary")
    if is_kenlm_binary(path):
        return KenLMModel(path)
    return NGramModel(read_arpa(path), path)

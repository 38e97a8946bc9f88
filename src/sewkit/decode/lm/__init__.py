"""Word n-gram language models: ARPA files, back-off queries, KenLM's binary files, and building them from text."""

from sewkit.decode.lm.arpa import Arpa, LanguageModelError, NGrams, read_arpa, write_arpa
from sewkit.decode.lm.kneser_ney import build_arpa
from sewkit.decode.lm.loading import LanguageModel, load_lm
from sewkit.decode.lm.ngram import NGramModel

__all__ = [
    "Arpa",
    "LanguageModel",
    "LanguageModelError",
    "NGramModel",
    "NGrams",
    "build_arpa",
    "load_lm",
    "read_arpa",
    "write_arpa",
]

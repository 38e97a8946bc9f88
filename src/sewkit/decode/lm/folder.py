"""The language model that lies with a speech model, where pyctcdecode and transformers look for it.

model/
    alphabet.json                the letters again, for pyctcdecode
    language_model/
        attrs.json               the weights, see `FusionWeights`
        unigrams.txt             the words that are known, one a line
        lm.arpa                  one ARPA file or KenLM binary of any name
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sewkit.decode.fusion import FusionWeights
from sewkit.decode.lm.arpa import LanguageModelError
from sewkit.decode.lm.loading import load_lm
from sewkit.errors import UserError
from sewkit.files import write_whole
from sewkit.text import Alphabet

FOLDER = "language_model"
SUFFIXES = (".arpa", ".gz", ".bin", ".binary", ".klm")


class StoredLM(NamedTuple):
    """A language model file with its weights and, where they are listed, the known words."""

    path: Path
    weights: FusionWeights
    words: list[str] | None


def find_lm(model: str | os.PathLike[str]) -> StoredLM | None:
    """The language model in a speech model's folder, None where there is none. Raises LanguageModelError."""
    folder = Path(model).expanduser() / FOLDER
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise LanguageModelError(f"{folder}: expected one file ending in {', '.join(SUFFIXES)}, found {names}")
    unigrams = folder / "unigrams.txt"
    words = unigrams.read_text(encoding="utf-8").split() if unigrams.exists() else None
    return StoredLM(files[0], _read_weights(folder / "attrs.json"), words)


def _read_weights(path: Path) -> FusionWeights:
    if not path.exists():
        return FusionWeights()
    try:
        return FusionWeights(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:  # UserError is a ValueError
        names = ", ".join(field.name for field in dataclasses.fields(FusionWeights))
        raise LanguageModelError(f"{path}: expected a JSON object with {names}: {error}") from error


def store_lm(
    model: str | os.PathLike[str],
    lm: Path,
    weights: FusionWeights,
    alphabet: Alphabet,
    words: Sequence[str] | None = None,
) -> Path:
    """Put a language model with its weights into a speech model's folder, in place of one there; returns its folder.

    words: the known words, by default the language model's.
    Raises UserError where there is no such folder, LanguageModelError for a language model that can't be read.
    """
    model = Path(model).expanduser()
    if not (model / "config.json").is_file():
        raise UserError(f"{model} is not a model's folder, so weights can't be stored there; make one: sewkit convert")
    folder = model / FOLDER
    draft = model / f".{FOLDER}.{secrets.token_hex(8)}.tmp"
    draft.mkdir()
    try:
        shutil.copyfile(lm, draft / lm.name)
        _write_json(draft / "attrs.json", dataclasses.asdict(weights))
        if words is None:
            words = load_lm(lm).words()
        if words is not None:
            (draft / "unigrams.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
        _write_json(model / "alphabet.json", {"labels": _labels(alphabet), "is_bpe": False})
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _labels(alphabet: Alphabet) -> list[str]:
    """The tokens as pyctcdecode names them: nothing for the blank, a space between words."""
    labels = [" " if token == alphabet.delimiter else token for token in alphabet.tokens]
    labels[alphabet.blank] = ""
    return labels


def _write_json(path: Path, value: object) -> None:
    write_whole(path, json.dumps(value, ensure_ascii=False) + "\n")

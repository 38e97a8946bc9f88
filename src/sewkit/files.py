"""Files are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sewkit.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside `path` to write to, which takes its place once the block is through; folders are made.

    Raises UserError where that fails; then `path` is as it was.
    """
    draft = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """A folder to write into, with those above it, unless it is there. Raises UserError where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: expected a folder, or a place where one can be made ({error.strerror or error}); choose another"
        ) from error


def write_whole(path: Path, text: str) -> None:
    """A text file in UTF-8, see `replacing`."""
    with replacing(path) as draft:
        # A file name that is not UTF-8 reaches the text as surrogates, which cannot be encoded.
        draft.write_text(text, encoding="utf-8", errors="replace", newline="\n")

"""Files are written whole or not at all; whether they can be is told before the work, not after it."""

from __future__ import annotations

import os
import secrets
import tempfile
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
    _nearest(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield draft
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def write_whole(path: Path, text: str) -> None:
    """A text file in UTF-8, see `replacing`."""
    with replacing(path) as draft:
        # A file name that is not UTF-8 reaches the text as surrogates, which cannot be encoded.
        draft.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def expect_folder(folder: Path) -> None:
    """Raises UserError where no file could be written in `folder`, which need not be there yet; leaves nothing."""
    nearest = _nearest(folder)
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        found = f"found that nothing can be in {nearest} ({error.strerror or error})"
        raise UserError(f"{folder}: expected a folder that can be written, {found}; name another") from error


def make_folder(folder: Path) -> None:
    """A folder to write into, with those above it, unless it is there. Raises UserError where it cannot be made."""
    expect_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror or error}); name another folder") from error


def expect_file(path: Path) -> None:
    """Raises UserError where `path` could not be written, which need not be there yet; leaves nothing."""
    if os.path.isdir(path):
        raise UserError(f"{path}: expected a file that can be written, found a folder; name a file in it")
    expect_folder(path.parent)


def _nearest(folder: Path) -> Path:
    """The folder, or the lowest above it that is there. Raises UserError where a file is in the way."""
    found = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), Path())
    if not os.path.isdir(found):
        where = "" if found == folder else f" at {found}"
        raise UserError(f"{folder}: expected a folder that can be written, found a file{where}; name another")
    return found

"""The files of an export: graphs, and one file of constants in which each is stored once, whichever graphs use it.

Where there are several graphs their files are compressed: they differ in little and would outweigh a small model.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from types import TracebackType

from sewkit.checkpoint import CheckpointError

ALIGNMENT = 64
"""Bytes that a constant starts at a multiple of, so that it can be used where the file is mapped into memory."""


class ConstantsFile:
    """Written front to back; a context manager."""

    def __init__(self, path: Path):
        self.path = path
        self._file = path.open("wb")
        self._places: dict[bytes, int] = {}

    def place(self, data: bytes | memoryview) -> int:
        """The offset of these bytes in the file; they are appended if they are not in it."""
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self._file.write(bytes(-self._file.tell() % ALIGNMENT))
            self._places[key] = self._file.tell()
            self._file.write(data)
        return self._places[key]

    def __enter__(self) -> ConstantsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def pack(path: Path) -> str:
    """Compress a graph's file; gives its new name."""
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    return packed.name


def read_graph(path: Path) -> bytes:
    """A graph's file, compressed or not. Raises CheckpointError for a damaged one."""
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy the folder again") from None

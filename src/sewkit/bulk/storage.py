"""Folders, object stores and web servers through fsspec: the same calls for all, tried again where a connection breaks.

A location is a path or a URL such as `s3://bucket/prefix`; credentials and endpoints are those of its fsspec package.
"""

from __future__ import annotations

import io
import logging
import posixpath
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from sewkit.errors import MissingExtraError, UserError
from sewkit.files import expect_folder, replacing

ATTEMPTS = 5
FIRST_PAUSE = 0.2
"""Seconds before the second attempt; each pause is twice the one before."""
SPOOL_BYTES = 16 * 2**20
"""A remote file up to this size is held in memory; a larger one goes through a temporary file."""
ATOMIC_UPLOAD = frozenset(("s3", "s3a", "gs", "gcs", "abfs", "az", "memory"))
"""Stores in which an object appears whole or not at all."""

_LOG = logging.getLogger(__name__)
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
"""What another attempt cannot mend."""
Result = TypeVar("Result")


class Unreachable(Exception):
    """A file that could not be had after several attempts; the message says why."""


def file_system(location: str) -> tuple[Any, str]:
    """fsspec's file system of a location and its path there. Raises UserError where that cannot be used."""
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtraError("sewkit bulk", "bulk") from error
    protocol = location.partition("://")[0] if "://" in location else "file"
    try:
        return url_to_fs(location)
    except ImportError as error:
        if protocol in _PACKAGES:
            raise UserError(f"{location}: needs a package: pip install {_PACKAGES[protocol]}") from error
        raise MissingExtraError(location, "bulk") from error
    except ValueError as error:
        raise UserError(f"{location}: expected a path, s3://, gs:// or http:// ({error})") from error


def is_local(location: str) -> bool:
    """Whether files there can be opened by their path."""
    return "://" not in location or location.startswith("file://")


def local_path(location: str) -> Path:
    """Of a location for which `is_local`."""
    return Path(location.removeprefix("file://"))


def join(root: str, name: str) -> str:
    """`name` below `root`, unless it is a URL or an absolute path itself."""
    if "://" in name or name.startswith("/") or (is_local(name) and Path(name).is_absolute()):
        return name
    return posixpath.join(root, name)


def patiently(call: Callable[[], Result], what: str) -> Result:
    """The call's result, after several attempts where connections break.

    Raises Unreachable at last; at once FileNotFoundError and others that another attempt would not mend.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except _FINAL:
            raise
        except Exception as error:  # every protocol's package has errors of its own
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if attempt == ATTEMPTS:
                raise Unreachable(f"not after {ATTEMPTS} attempts ({reason})") from error
            _LOG.info("%s: attempt %d failed (%s)", what, attempt, reason)
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1))
    raise AssertionError


@contextmanager
def opened(location: str, size: int | None = None) -> Iterator[str | IO[bytes]]:
    """What to hand to a reader of sound: the path of a local file, or a remote file's bytes as a file.

    size: in bytes where it is known; what comes is checked against it. Raises as `patiently`.
    """
    if is_local(location):
        yield str(local_path(location))
        return
    fs, path = file_system(location)
    if size is not None and size > SPOOL_BYTES:
        with tempfile.NamedTemporaryFile(prefix="sewkit-") as file:
            patiently(lambda: _fetch(fs, path, Path(file.name), size), location)
            yield file
        return
    data = patiently(lambda: _whole(fs.cat_file(path), size), location)
    yield io.BytesIO(data)


def _fetch(fs: Any, path: str, target: Path, size: int) -> None:
    fs.get_file(path, str(target))
    _check_size(target.stat().st_size, size)


def _whole(data: bytes, size: int | None) -> bytes:
    _check_size(len(data), size)
    return data


def _check_size(found: int, expected: int | None) -> None:
    if expected is not None and found != expected:
        raise OSError(f"{found} bytes came of {expected}")


def read_bytes(location: str) -> bytes | None:
    """A whole file; None where there is none. Raises UserError where it cannot be had."""
    fs, path = file_system(location)
    try:
        return patiently(lambda: fs.cat_file(path), location)
    except FileNotFoundError:
        return None
    except (Unreachable, OSError) as error:
        raise UserError(f"{location}: cannot be read: {error}") from error


class Folder:
    """Where results are written: a local folder or a prefix of an object store. Files appear whole or not at all."""

    def __init__(self, location: str):
        self.location = location.rstrip("/") or "/"
        self._fs, self._path = file_system(self.location)
        if self.location.startswith(("http://", "https://")):
            raise UserError(f"{location}: cannot be written to; expected a folder or an object store such as s3://")

    def expect_writable(self) -> None:
        """Raises UserError for a local folder that cannot be written; a store says so when it is written to."""
        if is_local(self.location):
            expect_folder(local_path(self.location))

    def names(self) -> list[str]:
        """The files in it, in order of name; none where it does not exist yet."""
        self._fs.invalidate_cache()
        try:
            found = patiently(lambda: self._fs.ls(self._path, detail=False), self.location)
        except FileNotFoundError:
            return []
        except (Unreachable, OSError) as error:
            raise UserError(f"{self.location}: cannot be listed: {error}") from error
        return sorted(posixpath.basename(path.replace("\\", "/").rstrip("/")) for path in found)

    def read(self, name: str) -> bytes | None:
        """A file of it; None where there is none."""
        return read_bytes(join(self.location, name))

    def write(self, name: str, data: bytes) -> None:
        """In place of an older file of that name. Raises UserError where that fails."""
        if is_local(self.location):
            with replacing(local_path(self.location) / name) as draft:
                draft.write_bytes(data)
            return
        target = posixpath.join(self._path, name)
        try:
            patiently(lambda: self._upload(target, data), join(self.location, name))
        except (Unreachable, OSError) as error:
            raise UserError(f"{join(self.location, name)}: cannot be written: {error}") from error

    def _upload(self, target: str, data: bytes) -> None:
        if self.location.partition("://")[0] in ATOMIC_UPLOAD:
            self._fs.pipe_file(target, data)
            return
        draft = posixpath.join(posixpath.dirname(target), f".{posixpath.basename(target)}.tmp")
        self._fs.makedirs(posixpath.dirname(target), exist_ok=True)
        self._fs.pipe_file(draft, data)
        self._fs.mv(draft, target)

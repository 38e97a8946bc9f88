"""What there is to do: the recordings of a folder, prefix or manifest, cut into lots and shards.

A manifest is JSON lines, CSV or Parquet with at least `audio`, a path beside the manifest or a URL. It may have
`duration` (seconds), and `start`, `channel`, `offset`, `size` or joined `parts` as in `sewkit.data.manifest`.

The cut is a function of the recordings in their order and nothing else: an interrupted job that goes on cuts what is
missing as it was cut before, so that batches, and with them results, are the same.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from sewkit.audio import AUDIO_SUFFIXES
from sewkit.bulk.storage import Unreachable, file_system, is_local, join, patiently, read_bytes
from sewkit.data.manifest import ManifestError
from sewkit.errors import MissingExtraError, UserError

MANIFEST_SUFFIXES = (".jsonl", ".csv", ".parquet")
LOT_RECORDINGS, LOT_SECONDS, LOT_BYTES = 64, 240.0, 8 * 2**20
"""A lot is full with so many recordings, or so much sound, or where its length is not known, so many bytes."""
SHARD_RECORDINGS = 500


@dataclass(frozen=True, slots=True)
class Clip:
    """One file, or a segment of it."""

    location: str
    start: float = 0.0
    seconds: float | None = None
    """Of the segment; None: to the end."""
    channel: int | None = None
    """The only one to take, counted from 0; None: the mean of all."""
    pause: float = 0.0
    """Silence before it, seconds."""
    offset: int = 0
    size: int | None = None
    """Where the recording lies in a tar, bytes; None: the file is the recording."""
    file_size: int | None = None
    """Of the whole file where the listing says, bytes."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a file, as it is."""
        return self.seconds is None and self.start == 0.0 and self.channel is None and self.size is None


@dataclass(frozen=True, slots=True)
class Entry:
    """A recording by the name that it has in the input, which is its identity."""

    name: str
    clips: tuple[Clip, ...]
    seconds: float | None
    """By the manifest; None where it does not say."""

    @property
    def num_bytes(self) -> int | None:
        """Of its files; None where the listing does not say."""
        sizes = [clip.size if clip.size is not None else clip.file_size for clip in self.clips]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True)
class Lot:
    """Recordings that are read, batched and transcribed together."""

    shard: str
    index: int
    """Its place in the shard."""
    entries: tuple[Entry, ...]

    @property
    def is_local(self) -> bool:
        """Whether all of it lies in files of this machine."""
        return all(is_local(clip.location) for entry in self.entries for clip in entry.clips)


@dataclass(frozen=True)
class Shard:
    """A file of the output to be: its name without suffix, and its lots in order."""

    name: str
    lots: tuple[Lot, ...]


@dataclass(frozen=True)
class Recordings:
    """All that the input names, each once."""

    entries: list[Entry]
    num_repeated: int
    """Rows that name a recording again."""


def find_recordings(location: str) -> Recordings:
    """The recordings of a folder or prefix in order of name, or of a manifest in its order.

    Raises UserError where there are none; ManifestError for a row that cannot be used.
    """
    if location.lower().endswith(MANIFEST_SUFFIXES):
        found = list(_manifest_entries(location))
    else:
        found = _folder_entries(location)
    unique = {entry.name: entry for entry in reversed(found)}
    entries = [entry for entry in found if unique.get(entry.name) is entry]
    if not entries:
        raise UserError(
            f"{location}: no recordings; expected a folder or prefix with files such as .wav, .flac or .mp3, or a "
            f"manifest ({', '.join(MANIFEST_SUFFIXES)})"
        )
    return Recordings(entries, len(found) - len(entries))


def _folder_entries(location: str) -> list[Entry]:
    fs, root = file_system(location)
    try:
        found = patiently(lambda: fs.find(root, detail=True), location)
        if not found and not fs.exists(root):
            raise UserError(f"{location}: no such folder or file; check the path")
    except (Unreachable, OSError) as error:
        raise UserError(f"{location}: cannot be listed: {error}") from error
    root = root.rstrip("/")
    entries = []
    for path in sorted(found):
        if PurePosixPath(path).suffix.lower() in AUDIO_SUFFIXES:
            name = path[len(root) :].lstrip("/") or posixpath.basename(path)
            clip = Clip(fs.unstrip_protocol(path) if "://" in location else path, file_size=found[path].get("size"))
            entries.append(Entry(name, (clip,), None))
    return entries


# Manifests


def _manifest_entries(location: str) -> Iterator[Entry]:
    data = read_bytes(location)
    if data is None:
        raise ManifestError(f"{location}: no such file; check the path")
    root = posixpath.dirname(location) if "://" in location else str(Path(location).parent)
    rows = {".jsonl": _json_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[Path(location).suffix.lower()]
    for number, row in rows(data, location):
        yield _entry(row, root, f"{location}:{number}")


def _json_rows(data: bytes, location: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(io.BytesIO(data), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise ManifestError(f"{location}:{number}: not JSON ({getattr(error, 'msg', error)})") from error


def _csv_rows(data: bytes, location: str) -> Iterator[tuple[int, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        for row in reader:
            yield reader.line_num, {name: value for name, value in row.items() if value not in ("", None)}
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{location}: expected CSV in UTF-8 with a line of column names ({error})") from error


def _parquet_rows(data: bytes, location: str) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("a Parquet manifest", "bulk") from error
    try:
        rows = parquet.ParquetFile(pa.BufferReader(data)).iter_batches()
        numbered = (row for batch in rows for row in batch.to_pylist())
        yield from enumerate(numbered, start=1)
    except pa.ArrowException as error:
        raise ManifestError(f"{location}: cannot be read as Parquet ({error})") from error


def _entry(row: Any, root: str, place: str) -> Entry:
    parts = row.get("parts") if isinstance(row, dict) else None
    if not isinstance(row, dict) or ((row.get("audio") is None) == (parts is None)):
        raise ManifestError(f"{place}: expected an object with audio (a path or URL) or parts")
    try:
        clips = tuple(_clip(part, root) for part in parts or [row])
        seconds = None if row.get("duration") is None else float(row["duration"])
        names = [_clip_name(part) for part in parts or [row]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(
            f"{place}: each recording needs audio (a path or URL) and may have start, duration and pause (seconds), "
            "channel (a number), offset and size (bytes)"
        ) from error
    return Entry("+".join(names), clips, seconds)


def _clip(part: dict[str, Any], root: str) -> Clip:
    is_segment = part.get("start") is not None
    if not isinstance(part["audio"], str):
        raise TypeError
    return Clip(
        location=join(root, part["audio"]),
        start=float(part["start"]) if is_segment else 0.0,
        seconds=float(part["duration"]) if is_segment else None,
        channel=None if part.get("channel") is None else int(part["channel"]),
        pause=float(part.get("pause") or 0.0),
        offset=int(part.get("offset") or 0),
        size=None if part.get("size") is None else int(part["size"]),
    )


def _clip_name(part: dict[str, Any]) -> str:
    """The path, and as in media fragments which part of the file."""
    said = []
    if part.get("start") is not None:
        start = float(part["start"])
        said.append(f"t={start:g},{start + float(part['duration']):g}")
    if part.get("channel") is not None:
        said.append(f"channel={int(part['channel'])}")
    if part.get("size") is not None:
        said.append(f"bytes={int(part.get('offset') or 0)}+{int(part['size'])}")
    return part["audio"] + ("#" + "&".join(said) if said else "")


# The cut


def cut_into_shards(entries: Iterable[Entry], shard_recordings: int = SHARD_RECORDINGS) -> Iterator[Shard]:
    """Shards of `shard_recordings`, the last one smaller; where a shard ends, so does a lot."""
    lots: list[list[Entry]] = []
    for entries_of_lot in _lots(entries, shard_recordings):
        lots.append(entries_of_lot)
        if sum(map(len, lots)) >= shard_recordings:
            yield _shard(lots)
            lots = []
    if lots:
        yield _shard(lots)


def _shard(lots: Sequence[Sequence[Entry]]) -> Shard:
    """Named by its recordings: two jobs on the same work write the same files, never one beside the other."""
    digest = hashlib.sha256()
    for entry in (entry for lot in lots for entry in lot):
        digest.update(entry.name.encode("utf-8", "surrogateescape") + b"\n")
    name = f"shard-{digest.hexdigest()[:16]}"
    return Shard(name, tuple(Lot(name, index, tuple(lot)) for index, lot in enumerate(lots)))


def _lots(entries: Iterable[Entry], shard_recordings: int) -> Iterator[list[Entry]]:
    lot: list[Entry] = []
    in_shard, fill = 0, 0.0
    for entry in entries:
        lot.append(entry)
        in_shard += 1
        fill += max(1 / LOT_RECORDINGS, _share(entry))
        is_shard_full = in_shard >= shard_recordings
        if fill >= 1 - 1e-9 or is_shard_full:
            yield lot
            lot, fill = [], 0.0
            in_shard = 0 if is_shard_full else in_shard
    if lot:
        yield lot


def _share(entry: Entry) -> float:
    """Of a lot that the recording fills."""
    if entry.seconds is not None:
        return entry.seconds / LOT_SECONDS
    return (entry.num_bytes or 0) / LOT_BYTES

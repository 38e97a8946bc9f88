"""The native manifest: JSON lines with `audio, text, speaker, duration, split` and any extra columns.

Audio that is not labelled has `audio` and `duration` at least. A row may be a SEGMENT of a recording, from `start` on
for `duration` seconds, and of one `channel`; the recording may lie inside an uncompressed tar, `size` bytes from
`offset`:

    {"audio": "meeting.flac", "start": 12.5, "duration": 3.2, "channel": 1, "text": "NO", ...}
    {"audio": "recording.000000.tar", "offset": 1536, "size": 48210, "duration": 3.2, "text": "NO", ...}

A row may also be JOINED from several recordings, so that an evaluation list is a small text file without audio:

    {"parts": [{"audio": "audio/a.flac", "pause": 0.0}, {"audio": "audio/b.flac", "pause": 0.3}], "text": "NO ON", ...}

`pause` is digital silence before the part, in seconds. Paths are relative to `root`, by default the manifest's folder.
`read_manifest` gives the rows; `Manifest` is for training: it starts in seconds on a million of them.
"""

import json
import mmap
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from sewkit.audio import SAMPLE_RATE, AudioError, audio_seconds, load_audio, load_segment
from sewkit.errors import UserError


class ManifestError(UserError):
    """A manifest that cannot be used; the message is one line with file and line number."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One recording of an utterance, or a segment of one."""

    audio: Path
    pause: float = 0.0
    """Silence before the recording, seconds."""
    start: float = 0.0
    """Where the segment starts in the recording, seconds."""
    seconds: float | None = None
    """Length of the segment; None: to the end of the recording."""
    channel: int | None = None
    """The one channel to take, counted from 0; None: the mean of all."""
    offset: int = 0
    size: int | None = None
    """Where the recording lies in a tar, bytes; None: the file is the recording."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One row of a manifest. `speaker` and `split` are "" where a row has none.

    So is `text` where rows without one were asked for; an empty text of a labelled row says that nobody speaks.
    """

    parts: tuple[Part, ...]
    text: str
    speaker: str
    duration: float
    """Seconds, pauses included."""
    split: str
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages: the first recording, and where in it."""
        part = self.parts[0]
        place = f" at {part.start:.2f} s" if part.seconds is not None else f"@{part.offset}" if part.size else ""
        return f"{part.audio}{place}"


COLUMNS = ("text", "speaker", "split", "duration")
PART_COLUMNS = ("audio", "pause", "start", "channel", "offset", "size")


def read_manifest(
    path: Path, split: str | None = None, root: Path | None = None, labelled: bool = True
) -> list[Utterance]:
    """The utterances of one split (all splits when None), in the order of the file.

    Raises ManifestError for a row without audio, duration or, of `labelled` recordings, text.
    """
    rows = [_utterance(row, place, root or path.parent, labelled) for place, row in read_json_lines(path)]
    kept = [row for row in rows if split is None or row.split == split]
    if not kept:
        such = f" of split {split!r}; {_splits(row.split for row in rows)}" if split else ""
        raise ManifestError(f"{path}: no utterance{such}")
    return kept


def _splits(found: Iterable[Any]) -> str:
    """Those that a manifest has, for messages."""
    names = sorted({name for name in found if name and isinstance(name, str)})
    return f"its splits are {', '.join(names)}" if names else "its rows name no split, leave it out"


def load_utterance(utterance: Utterance) -> np.ndarray:
    """float32 (S,) at 16 kHz: the recordings of an utterance with their pauses."""
    pieces = []
    for part in utterance.parts:
        pieces.append(np.zeros(round(part.pause * SAMPLE_RATE), dtype=np.float32))
        pieces.append(load_part(part))
    return np.concatenate(pieces)


def load_crop(utterance: Utterance, first: int, num_samples: int) -> np.ndarray:
    """`num_samples` of an utterance from sample `first` on; of a single recording nothing else is read."""
    if len(utterance.parts) > 1 or utterance.parts[0].pause:
        return load_utterance(utterance)[first : first + num_samples]
    part = utterance.parts[0]
    start, seconds = part.start + first / SAMPLE_RATE, num_samples / SAMPLE_RATE
    return load_segment(_recording(part), start, seconds, part.channel)[:num_samples]


def load_part(part: Part) -> np.ndarray:
    """float32 (S,) at 16 kHz: one recording, or the segment of it."""
    source = _recording(part)
    if part.seconds is None and part.start == 0.0 and part.channel is None:
        return load_audio(source)
    return load_segment(source, part.start, part.seconds, part.channel)


def part_seconds(part: Part) -> float:
    """Duration of the recording that a part lies in, by its header."""
    return audio_seconds(_recording(part))


class _Member(BytesIO):
    """A recording from inside a tar, with a name for messages."""

    name = ""


def _recording(part: Part) -> Path | BinaryIO:
    """The file, or what lies in it at the part's offset."""
    if part.size is None:
        return part.audio
    name = f"{part.audio}@{part.offset}"
    try:
        with part.audio.open("rb") as file:
            file.seek(part.offset)
            member = _Member(file.read(part.size))
    except OSError as error:
        raise AudioError(name, f"the archive cannot be read ({error.strerror}); check the path") from error
    member.name = name
    if len(member.getbuffer()) < part.size:
        raise AudioError(name, "the archive ends inside this recording; download it again")
    return member


def joined_row(parts: list[tuple[str, float]], **columns: Any) -> dict[str, Any]:
    """A joined row ready for JSON, from (audio, pause) pairs; pauses are rounded to milliseconds."""
    return {"parts": [{"audio": audio, "pause": round(pause, 3)} for audio, pause in parts], **columns}


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of every line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ManifestError(f"{path}: cannot be read ({reason})") from error
    # Not splitlines(): JSON may hold what that takes for an end of line, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parse_object(line, f"{path}:{number}")


def _parse_object(line: str | bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{place}: not JSON ({getattr(error, 'msg', error)})") from error
    if not isinstance(row, dict):
        raise ManifestError(f"{place}: expected one JSON object a line, found {type(row).__name__}")
    return row


def _utterance(row: dict[str, Any], place: str, root: Path, labelled: bool) -> Utterance:
    missing = [name for name in (("text", "duration") if labelled else ("duration",)) if row.get(name) is None]
    if missing:
        needed = "audio, text and duration" if labelled else "audio and duration"
        raise ManifestError(
            f"{place}: no {', '.join(missing)}; expected {needed} (seconds) in each row, as sewkit data import gives"
        )
    if ("audio" in row) == ("parts" in row):
        raise ManifestError(f"{place}: expected either audio or parts")
    if not isinstance(row["duration"], int | float) or not row["duration"] >= 0:
        raise ManifestError(f"{place}: duration must be seconds, found {row['duration']!r}")
    if not isinstance(row.get("text") or "", str):
        raise ManifestError(f"{place}: text must be a string, found {row['text']!r}")
    text, speaker, split = (str(row[name]) if row.get(name) is not None else "" for name in COLUMNS[:3])
    return Utterance(
        parts=_parts(row, place, root),
        text=text,
        speaker=speaker,
        duration=float(row["duration"]),
        split=split,
        extra={key: value for key, value in row.items() if key not in (*COLUMNS, *PART_COLUMNS, "parts")},
    )


def _parts(row: dict[str, Any], place: str, root: Path) -> tuple[Part, ...]:
    try:
        return tuple(_part(part, root) for part in row.get("parts", [row]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(
            f"{place}: each part needs audio (a path) and may have pause (seconds), start and duration (seconds), "
            "channel (a number), offset and size (bytes)"
        ) from error


def _part(part: dict[str, Any], root: Path) -> Part:
    """A `start` makes it a segment of the `duration` that stands beside it."""
    is_segment = part.get("start") is not None
    return Part(
        audio=root / part["audio"],
        pause=float(part.get("pause", 0.0)),
        start=float(part["start"]) if is_segment else 0.0,
        seconds=float(part["duration"]) if is_segment else None,
        channel=int(part["channel"]) if part.get("channel") is not None else None,
        offset=int(part.get("offset", 0)),
        size=int(part["size"]) if part.get("size") is not None else None,
    )


class Manifest(Sequence[Utterance]):
    """The rows of one or several manifests as a sequence that parses a row when it is asked for.

    Holds 24 bytes a row: its duration and its place in the file, which stays on disk. Can be sent to other processes.
    """

    def __init__(
        self, files: tuple["_File", ...], file_numbers: np.ndarray, lines: np.ndarray, durations: np.ndarray
    ) -> None:
        self.files = files
        self.file_numbers = file_numbers
        """(N,) uint8: the file of each row."""
        self.lines = lines
        """(N,) int64: its line there, counted from 0."""
        self.durations = durations
        """(N,) float64 seconds."""

    @classmethod
    def open(
        cls,
        path: Path,
        split: str | None = None,
        root: Path | None = None,
        labelled: bool = True,
        **columns: Container[Any],
    ) -> "Manifest":
        """One pass over the file. Of `split` and of further columns, rows are kept whose value is among those given."""
        file = _File(path, root or path.parent, labelled)
        lines, durations = file.durations()
        wanted = {**({"split": (split,)} if split is not None else {}), **columns}
        for name, values in wanted.items():
            found = file.column(name)
            is_kept = np.array([found[line] in values for line in lines.tolist()], dtype=bool)
            lines, durations = lines[is_kept], durations[is_kept]
        if not len(lines):
            such = " and ".join(f"{name} {values!r}" for name, values in {**wanted, "split": split}.items() if values)
            raise ManifestError(f"{path}: no utterance{f' of {such}' if such else ''}")
        return cls((file,), np.zeros(len(lines), dtype=np.uint8), lines, durations)

    @classmethod
    def join(cls, manifests: Sequence["Manifest"]) -> "Manifest":
        """One after the other; at most 255 files."""
        starts = np.cumsum([0, *(len(manifest.files) for manifest in manifests)])
        return cls(
            tuple(file for manifest in manifests for file in manifest.files),
            np.concatenate([m.file_numbers + np.uint8(start) for m, start in zip(manifests, starts, strict=False)]),
            np.concatenate([manifest.lines for manifest in manifests]),
            np.concatenate([manifest.durations for manifest in manifests]),
        )

    def select(self, rows: np.ndarray) -> "Manifest":
        """The rows of these numbers, or where a (N,) bool array is True."""
        return Manifest(self.files, self.file_numbers[rows], self.lines[rows], self.durations[rows])

    def column(self, name: str) -> list[Any]:
        """One column of all rows, None where a row lacks it; far cheaper than the rows."""
        values: list[Any] = [None] * len(self)
        for number, file in enumerate(self.files):
            rows = np.flatnonzero(self.file_numbers == number).tolist()
            found = file.column(name)
            for row in rows:
                values[row] = found[self.lines[row]]
        return values

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, row: int) -> Utterance: ...
    @overload
    def __getitem__(self, row: slice) -> "Manifest": ...
    def __getitem__(self, row: int | slice) -> "Utterance | Manifest":
        if isinstance(row, slice):
            return self.select(np.arange(len(self))[row])
        return self.files[self.file_numbers[row]].utterance(int(self.lines[row]))


class _File:
    """A manifest as the operating system maps it into memory, and where its lines start."""

    def __init__(self, path: Path, root: Path, labelled: bool) -> None:
        self.path = path
        self.root = root
        self.labelled = labelled
        self._mapped: mmap.mmap | None = None
        newlines, braces = self._find(ord("\n")), self._find(ord("{"))
        end = len(self.content)
        ends = newlines if len(newlines) and newlines[-1] == end - 1 else np.append(newlines, end)
        self.bounds = np.concatenate([[0], ends + 1])
        """(L + 1,) int64: where each line starts, and the end."""
        self.is_plain = np.bincount(self._lines_of(braces), minlength=len(ends)) == 1
        """(L,) bool: the line holds one object and none inside it."""

    def utterance(self, line: int) -> Utterance:
        """A row, parsed and checked."""
        place = f"{self.path}:{line + 1}"
        return _utterance(_parse_object(self._bytes(line), place), place, self.root, self.labelled)

    def durations(self) -> tuple[np.ndarray, np.ndarray]:
        """(N,) the lines that hold rows, and their durations; a line that has none is an error."""
        found = self.column("duration")
        lines = np.array([line for line, value in enumerate(found) if value is not _BLANK], dtype=np.int64)
        durations = np.array([found[line] if _is_number(found[line]) else -1.0 for line in lines.tolist()])
        for line in lines[~(durations >= 0)][:1]:
            self.utterance(int(line))  # raises, and says what is wrong
        return lines, durations

    def column(self, name: str) -> list[Any]:
        """The value of one column on every line, None where it is missing, _BLANK on lines without a row.

        A number or a string behind the column's name is found without parsing the line, where no other object lies
        inside the row and the name stands there once; other lines are parsed.
        """
        pattern = re.compile(rb'"%b"\s*:\s*(-?\d[\d.eE+-]*|"[^"\\\n]*")?' % re.escape(name.encode()))
        matches = [(match.start(), match[1]) for match in pattern.finditer(self.content)]
        lines = self._lines_of(np.array([place for place, _ in matches], dtype=np.int64))
        is_sure = self.is_plain & (np.bincount(lines, minlength=len(self.is_plain)) == 1)
        values: list[Any] = [_UNKNOWN] * len(self.is_plain)
        for line, is_known, (_, text) in zip(lines.tolist(), is_sure[lines].tolist(), matches, strict=True):
            if is_known and text is not None:
                values[line] = _json_value(text)
        for line, value in enumerate(values):
            if value is _UNKNOWN:
                content = self._bytes(line)
                values[line] = _parse_object(content, f"{self.path}:{line + 1}").get(name) if content else _BLANK
        return values

    @property
    def content(self) -> mmap.mmap:
        """The bytes of the file."""
        if self._mapped is None:
            try:
                with self.path.open("rb") as file:
                    self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise ManifestError(f"{self.path}: cannot be read ({error.strerror})") from error
            except ValueError as error:  # an empty file cannot be mapped
                raise ManifestError(f"{self.path}: no utterance, the file is empty") from error
        return self._mapped

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_mapped": None}

    def _find(self, byte: int) -> np.ndarray:
        """Places of a byte, a stretch of the file at a time."""
        found, step = [np.zeros(0, dtype=np.int64)], 2**24
        for start in range(0, len(self.content), step):
            stretch = np.frombuffer(self.content[start : start + step], dtype=np.uint8)
            found.append(np.flatnonzero(stretch == byte) + start)
        return np.concatenate(found)

    def _lines_of(self, places: np.ndarray) -> np.ndarray:
        """(P,) places in the file -> their lines."""
        return np.searchsorted(self.bounds, places, side="right") - 1

    def _bytes(self, line: int) -> bytes:
        return self.content[self.bounds[line] : self.bounds[line + 1]].strip()


_UNKNOWN, _BLANK = object(), object()


def _json_value(text: bytes) -> Any:
    """A number or string; _UNKNOWN if it only looked like one."""
    try:
        if text[:1] == b'"':
            return json.loads(text)
        return int(text) if text.lstrip(b"-").isdigit() else float(text)
    except (ValueError, UnicodeDecodeError):
        return _UNKNOWN


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)

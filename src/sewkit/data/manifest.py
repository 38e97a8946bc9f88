"""The native manifest: JSON lines with `audio, text, speaker, duration, split` and any extra columns.

A row may also be JOINED from several recordings, so that an evaluation list is a small text file without audio:

    {"parts": [{"audio": "audio/a.flac", "pause": 0.0}, {"audio": "audio/b.flac", "pause": 0.3}], "text": "NO ON", ...}

`pause` is digital silence before the part, in seconds. Paths are relative to `root`, by default the manifest's folder.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sewkit.audio import SAMPLE_RATE, load_audio
from sewkit.errors import UserError


class ManifestError(UserError):
    """A manifest that cannot be used; the message is one line with file and line number."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One recording of an utterance."""

    audio: Path
    pause: float = 0.0
    """Silence before the recording, seconds."""


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One row of a manifest."""

    parts: tuple[Part, ...]
    text: str
    speaker: str
    duration: float
    """Seconds, pauses included."""
    split: str
    extra: dict[str, Any] = field(default_factory=dict)


COLUMNS = ("text", "speaker", "duration", "split")


def read_manifest(path: Path, split: str | None = None, root: Path | None = None) -> list[Utterance]:
    """The utterances of one split (all splits when None), in the order of the file."""
    rows = [_utterance(row, place, root or path.parent) for place, row in read_json_lines(path)]
    rows = [row for row in rows if split is None or row.split == split]
    if not rows:
        raise ManifestError(f"{path}: no utterance{f' of split {split!r}' if split else ''}")
    return rows


def load_utterance(utterance: Utterance) -> np.ndarray:
    """float32 (S,) at 16 kHz: the recordings of an utterance with their pauses."""
    pieces = []
    for part in utterance.parts:
        pieces.append(np.zeros(round(part.pause * SAMPLE_RATE), dtype=np.float32))
        pieces.append(load_audio(part.audio))
    return np.concatenate(pieces)


def joined_row(parts: list[tuple[str, float]], **columns: Any) -> dict[str, Any]:
    """A joined row ready for JSON, from (audio, pause) pairs; pauses are rounded to milliseconds."""
    return {"parts": [{"audio": audio, "pause": round(pause, 3)} for audio, pause in parts], **columns}


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of every line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}:{number}", _parse_object(line, f"{path}:{number}")


def _parse_object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ManifestError(f"{place}: not JSON ({error.msg})") from error
    if not isinstance(row, dict):
        raise ManifestError(f"{place}: expected one JSON object a line, found {type(row).__name__}")
    return row


def _utterance(row: dict[str, Any], place: str, root: Path) -> Utterance:
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise ManifestError(f"{place}: no {', '.join(missing)}")
    if ("audio" in row) == ("parts" in row):
        raise ManifestError(f"{place}: expected either audio or parts")
    if not isinstance(row["duration"], int | float) or not row["duration"] >= 0:
        raise ManifestError(f"{place}: duration must be seconds, found {row['duration']!r}")
    if not isinstance(row["text"], str):
        raise ManifestError(f"{place}: text must be a string, found {row['text']!r}")
    return Utterance(
        parts=_parts(row, place, root),
        text=row["text"],
        speaker=str(row["speaker"]),
        duration=float(row["duration"]),
        split=str(row["split"]),
        extra={key: value for key, value in row.items() if key not in (*COLUMNS, "audio", "parts")},
    )


def _parts(row: dict[str, Any], place: str, root: Path) -> tuple[Part, ...]:
    parts = row.get("parts", [{"audio": row.get("audio")}])
    try:
        return tuple(Part(audio=root / part["audio"], pause=float(part.get("pause", 0.0))) for part in parts)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ManifestError(f"{place}: each part needs audio (a path) and may have pause (seconds)") from error

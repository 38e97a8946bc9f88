"""What recognition returns, how words form segments, and the files a transcript is written to.

All times are in seconds. The formats follow openai-whisper's, except that hours are always written and `ctm` is
added. Files hold whole milliseconds, rounded once: no interval ends before it starts, no minute has 60 seconds.
"""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sewkit.compute import Compute

SEGMENT_PAUSE = 0.8  # seconds of silence that end a segment
SEGMENT_SECONDS = 10.0  # the longest segment, unless a single word is longer


@dataclass(frozen=True)
class Word:
    """One word, where it was heard (seconds), and how sure the model is of it (0 to 1)."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Segment:
    """Words spoken without a long pause: a line of the text, a subtitle."""

    text: str
    start: float
    end: float
    words: list[Word]


@dataclass(frozen=True)
class Transcript:
    """The words of one recording, `duration` seconds long, heard at the operating point `compute`."""

    text: str
    words: list[Word]
    segments: list[Segment]
    duration: float
    compute: Compute | None
    source: str  # the recording's name for display

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, laid out like whisper's json; times to the millisecond."""
        return {
            "text": self.text,
            "duration": _seconds(self.duration),
            "compute": None if self.compute is None else dataclasses.asdict(self.compute),
            "segments": [_segment_dict(id, segment) for id, segment in enumerate(self.segments)],
        }


def _segment_dict(id: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": id,
        "start": _seconds(segment.start),
        "end": _seconds(segment.end),
        "text": segment.text,
        "words": [
            {
                "word": word.text,
                "start": _seconds(word.start),
                "end": _seconds(word.end),
                "confidence": round(float(word.confidence), 4),
            }
            for word in segment.words
        ],
    }


def segment_words(words: Iterable[Word]) -> list[Segment]:
    """Group words, in order of time, into segments: a new one after a pause, or when one would get too long."""
    groups: list[list[Word]] = []
    for word in words:
        if not groups or _begins_segment(word, groups[-1]):
            groups.append([])
        groups[-1].append(word)
    return [Segment(" ".join(word.text for word in group), group[0].start, group[-1].end, group) for group in groups]


def _begins_segment(word: Word, group: list[Word]) -> bool:
    # In milliseconds: as floats, 8.2 - 7.4 is less than 0.8.
    pause = _milliseconds(word.start) - _milliseconds(group[-1].end)
    length = _milliseconds(word.end) - _milliseconds(group[0].start)
    return pause >= _milliseconds(SEGMENT_PAUSE) or length > _milliseconds(SEGMENT_SECONDS)


# Times


def _milliseconds(seconds: float) -> int:
    return round(float(seconds) * 1000)


def _seconds(seconds: float) -> float:
    return _milliseconds(seconds) / 1000


def _clock(seconds: float, decimal_mark: str) -> str:
    minutes, milliseconds = divmod(_milliseconds(seconds), 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}{decimal_mark}{milliseconds % 1000:03d}"


# Formats


def _txt(transcript: Transcript) -> str:
    return "".join(f"{segment.text}\n" for segment in transcript.segments)


def _srt(transcript: Transcript) -> str:
    cues = []
    for number, segment in enumerate(transcript.segments, start=1):
        times = f"{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}"
        cues.append(f"{number}\n{times}\n{segment.text.replace('-->', '->')}\n\n")
    return "".join(cues)


def _vtt(transcript: Transcript) -> str:
    cues = []
    for segment in transcript.segments:
        times = f"{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}"
        # WebVTT takes < and & for tags and entities, and a vocabulary may hold "<unk>".
        cues.append(f"{times}\n{html.escape(segment.text, quote=False)}\n\n")
    return "WEBVTT\n\n" + "".join(cues)


def _tsv(transcript: Transcript) -> str:
    rows = ["start\tend\ttext\n"]
    for segment in transcript.segments:
        text = segment.text.replace("\t", " ")
        rows.append(f"{_milliseconds(segment.start)}\t{_milliseconds(segment.end)}\t{text}\n")
    return "".join(rows)


def _json(transcript: Transcript) -> str:
    return json.dumps(transcript.to_dict(), ensure_ascii=False, indent=2) + "\n"


def _ctm(transcript: Transcript) -> str:
    utterance = re.sub(r"\s", "_", Path(transcript.source).stem)
    lines = []
    for word in transcript.words:
        start, end = _milliseconds(word.start), _milliseconds(word.end)
        times = f"{start / 1000:.3f} {(end - start) / 1000:.3f}"
        lines.append(f"{utterance} 1 {times} {word.text} {word.confidence:.4f}\n")
    return "".join(lines)


WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
    "json": _json,
    "ctm": _ctm,
}


def write_transcript(
    transcript: Transcript, folder: str | os.PathLike[str], formats: Iterable[str], *, stem: str
) -> list[Path]:
    """Write `<stem>.<format>` into `folder`, made if missing, for each of `formats`; returns the paths.

    Each file appears whole or not at all and replaces an older one. Two recordings may share a file name: the
    caller picks stems that differ.

    Raises:
        ValueError: a format is not in `WRITERS`; nothing is written.
    """
    formats = list(formats)
    if unknown := sorted(set(formats) - set(WRITERS)):
        raise ValueError(f"unknown format: {', '.join(unknown)}; known are {', '.join(WRITERS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.{format}" for format in formats]
    for path, format in zip(paths, formats, strict=True):
        _write_atomically(path, WRITERS[format](transcript))
    return paths


def _write_atomically(path: Path, text: str) -> None:
    # In the same folder, because a rename across file systems is a copy.
    partial = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        # A file name that is not UTF-8 reaches the text as surrogates, which cannot be encoded.
        partial.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

"""What recognition returns, how words form segments, and the files a transcript is written to.

All times are in seconds. The formats follow openai-whisper's, except that hours are always written and `ctm` and
Praat's TextGrid are added. Files hold whole milliseconds, rounded once: no interval ends before it starts, no minute
has 60 seconds.
"""

from __future__ import annotations

import dataclasses
import html
import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sewkit.files import write_whole
from sewkit.subtitles import USUAL, Cue, SubtitleStyle, lay_out

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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; times to the millisecond."""
        return {
            "word": self.text,
            "start": _seconds(self.start),
            "end": _seconds(self.end),
            "confidence": round(float(self.confidence), 4),
        }


@dataclass(frozen=True)
class Character:
    """One letter of a word, where it was heard (seconds), and the highest probability (0 to 1) it reaches there."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class AlignedWord(Word):
    """A word of a given text, as written there.

    score: mean log posterior of its letters over the frames that stand for them, 0 at best. missing: the score is so
    low that the word was probably not spoken; its times then say only where in the text's order it would have been.
    """

    characters: list[Character]
    score: float
    missing: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; times to the millisecond."""
        characters = [
            {"character": one.text, "start": _seconds(one.start), "end": _seconds(one.end)} for one in self.characters
        ]
        score = round(float(self.score), 4)
        return {**super().to_dict(), "score": score, "missing": self.missing, "characters": characters}


@dataclass(frozen=True)
class Segment:
    """Words spoken without a long pause: a line of the text."""

    text: str
    start: float
    end: float
    words: Sequence[Word]


@dataclass(frozen=True)
class Transcript:
    """The words of one recording, `duration` seconds long, heard at the operating point `compute`."""

    text: str
    words: Sequence[Word]
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


@dataclass(frozen=True)
class Alignment(Transcript):
    """A transcript whose words were given: when each was spoken. `score` is the path's mean log posterior a frame."""

    words: Sequence[AlignedWord]
    score: float

    @property
    def missing(self) -> list[AlignedWord]:
        """Words of the text that the recording does not seem to hold."""
        return [word for word in self.words if word.missing]

    def to_dict(self) -> dict[str, Any]:
        """As a transcript's, with the score; words have scores, characters and whether they are missing."""
        return {**super().to_dict(), "score": round(float(self.score), 4)}


def _segment_dict(id: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": id,
        "start": _seconds(segment.start),
        "end": _seconds(segment.end),
        "text": segment.text,
        "words": [word.to_dict() for word in segment.words],
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


def _srt(transcript: Transcript, style: SubtitleStyle = USUAL) -> str:
    cues = []
    for number, cue in enumerate(lay_out(transcript.words, style, transcript.duration), start=1):
        times = f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}"
        cues.append(f"{number}\n{times}\n{_lines(cue).replace('-->', '->')}\n\n")
    return "".join(cues)


def _vtt(transcript: Transcript, style: SubtitleStyle = USUAL) -> str:
    cues = []
    for cue in lay_out(transcript.words, style, transcript.duration):
        times = f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}"
        # WebVTT takes < and & for tags and entities, and a vocabulary may hold "<unk>".
        cues.append(f"{times}\n{html.escape(_lines(cue), quote=False)}\n\n")
    return "WEBVTT\n\n" + "".join(cues)


def _lines(cue: Cue) -> str:
    return "\n".join(cue.lines)


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
        text = re.sub(r"\s", "_", word.text)  # as written in a text that was aligned, "one --" may be a word
        lines.append(f"{utterance} 1 {times} {text} {word.confidence:.4f}\n")
    return "".join(lines)


def _textgrid(transcript: Transcript) -> str:
    """Praat's long text format: a tier of words; of an alignment also of characters, and points at missing words."""
    tiers = [_intervals("words", transcript.words, transcript.duration)]
    if isinstance(transcript, Alignment):
        heard = [word for word in transcript.words if not word.missing]
        characters = [character for word in heard for character in word.characters]
        tiers.append(_intervals("characters", characters, transcript.duration))
        tiers.append(_points("missing", transcript.missing, transcript.duration))
    header = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n'
    header += f"xmin = 0\nxmax = {_seconds(transcript.duration)}\ntiers? <exists>\nsize = {len(tiers)}\nitem []:\n"
    return header + "".join(f"    item [{number}]:\n{tier}" for number, tier in enumerate(tiers, start=1))


def _intervals(name: str, spans: Sequence[Word | Character], duration: float) -> str:
    """A tier whose intervals cover the recording: what lies between two spans has no text, no span has no length."""
    cells: list[tuple[int, int, str]] = []
    time, end = 0, _milliseconds(duration)
    for span in spans:
        first, last = (min(max(_milliseconds(edge), time), end) for edge in (span.start, span.end))
        if first == last:
            continue
        cells += [(time, first, "")] if first > time else []
        cells.append((first, last, span.text))
        time = last
    cells += [(time, end, "")] if end > time else []
    lines = [
        f"        intervals [{number}]:\n            xmin = {first / 1000}\n            xmax = {last / 1000}\n"
        f"            text = {_praat_string(text)}\n"
        for number, (first, last, text) in enumerate(cells, start=1)
    ]
    return _tier("IntervalTier", name, duration, f"intervals: size = {len(cells)}", lines)


def _points(name: str, words: Sequence[Word], duration: float) -> str:
    """A tier of moments, which Praat wants to differ."""
    lines: list[str] = []
    last = -1
    for number, word in enumerate(words, start=1):
        last = max(_milliseconds((word.start + word.end) / 2), last + 1)
        lines.append(
            f"        points [{number}]:\n            number = {last / 1000}\n"
            f"            mark = {_praat_string(word.text)}\n"
        )
    return _tier("TextTier", name, duration, f"points: size = {len(words)}", lines)


def _tier(kind: str, name: str, duration: float, size: str, lines: list[str]) -> str:
    head = f'        class = "{kind}"\n        name = "{name}"\n        xmin = 0\n'
    return head + f"        xmax = {_seconds(duration)}\n        {size}\n" + "".join(lines)


def _praat_string(text: str) -> str:
    quoted = text.replace('"', '""')
    return f'"{quoted}"'


SUBTITLES: dict[str, Callable[..., str]] = {"srt": _srt, "vtt": _vtt}
"""Formats that take a `SubtitleStyle` as `style`."""
WRITERS: dict[str, Callable[[Transcript], str]] = {
    "txt": _txt,
    **SUBTITLES,
    "tsv": _tsv,
    "json": _json,
    "ctm": _ctm,
    "textgrid": _textgrid,
}
_SUFFIXES = {"textgrid": "TextGrid"}
"""Where a format's files are not called by its name."""


def write_transcript(
    transcript: Transcript,
    folder: str | os.PathLike[str],
    formats: Iterable[str],
    *,
    stem: str,
    subtitles: SubtitleStyle | None = None,
) -> list[Path]:
    """Write `<stem>.<format>` into `folder`, made if missing, for each of `formats`; returns the paths.

    Each file appears whole or not at all and replaces an older one. Two recordings may share a file name: the
    caller picks stems that differ. `subtitles` are the limits of srt and vtt, if others than the usual ones.

    Raises:
        ValueError: a format is not in `WRITERS`; nothing is written.
        UserError: a file cannot be written.
    """
    formats = list(formats)
    if unknown := sorted(set(formats) - set(WRITERS)):
        raise ValueError(f"unknown format: {', '.join(unknown)}; known are {', '.join(WRITERS)}")
    paths = [Path(folder) / f"{stem}.{_SUFFIXES.get(format, format)}" for format in formats]
    for path, format in zip(paths, formats, strict=True):
        write = WRITERS[format]
        if subtitles is not None and format in SUBTITLES:
            write = partial(SUBTITLES[format], style=subtitles)
        write_whole(path, write(transcript))
    return paths

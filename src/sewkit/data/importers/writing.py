"""Rows of an importer -> a manifest: durations from the headers, bad files named, written whole or not at all."""

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from sewkit.audio import AudioError
from sewkit.data.importers.common import Problem, Row
from sewkit.data.manifest import ManifestError, Part, part_seconds
from sewkit.text import JOINTS, with_apostrophes

FIRST_COLUMNS = ("audio", "start", "channel", "offset", "size", "text", "speaker", "duration", "split")


@dataclass
class ImportReport:
    """What an import did."""

    num_rows: int = 0
    seconds: float = 0.0
    num_changed_texts: int = 0
    """By `--letters`."""
    removed: dict[str, int] = field(default_factory=dict)
    """Characters that `--letters` took out of texts, and how often."""
    problems: list[str] = field(default_factory=list)
    """Entries left out, a line each."""

    def __str__(self) -> str:
        lines = [f"{self.num_rows:,} rows, {self.seconds / 3600:.2f} hours"]
        if self.num_changed_texts:
            removed = ", ".join(f"{character!r} {count:,}" for character, count in sorted(self.removed.items()))
            lines.append(f"{self.num_changed_texts:,} texts changed to letters; removed: {removed or 'nothing'}")
        if self.problems:
            lines.append(f"{len(self.problems):,} entries left out")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return vars(self)


def write_manifest(
    entries: Iterable[Row | Problem],
    output: Path,
    *,
    split: str | None = None,
    letters: bool = False,
    threads: int = 8,
    on_progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Write the manifest of an importer's entries; `on_progress` is called with the number of entries done.

    split: of all rows; None keeps what the layout says, "train" where it says nothing.
    letters: texts are changed by `to_letters`.
    """
    report = ImportReport()
    temporary = output.with_name(output.name + ".partial")
    output.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        for entry in _with_durations(entries, threads):
            if isinstance(entry, Problem):
                report.problems.append(str(entry))
            else:
                row = _finished(entry, output.parent, split)
                if letters and row.get("text"):
                    row["text"] = _changed(row["text"], report)
                report.num_rows += 1
                report.seconds += row["duration"]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if on_progress:
                on_progress(1)
    if not report.num_rows:
        temporary.unlink()
        first = f"; the first: {report.problems[0]}" if report.problems else ""
        raise ManifestError(f"nothing to import: {len(report.problems)} entries, none of them usable{first}")
    os.replace(temporary, output)
    return report


def to_letters(text: str) -> tuple[str, list[str]]:
    """(upper case without punctuation but apostrophes, the characters removed).

    Dashes and slashes separate words. Digits and letters with accents stay: only a person knows how they are read, and
    `sewkit data validate` names them.
    """
    kept, removed = [], []
    for character in JOINTS.sub(" ", with_apostrophes(text.upper())):
        if unicodedata.category(character)[0] in "PS" and character != "'":
            removed.append(character)
        else:
            kept.append(character)
    return " ".join("".join(kept).split()), removed


def _changed(text: str, report: ImportReport) -> str:
    changed, removed = to_letters(text)
    report.num_changed_texts += changed != text
    for character in removed:
        report.removed[character] = report.removed.get(character, 0) + 1
    return changed


def _with_durations(entries: Iterable[Row | Problem], threads: int) -> Iterator[Row | Problem]:
    """In order, a thousand at a time."""
    numbered = iter(entries)
    with ThreadPoolExecutor(threads) as executor:
        while chunk := list(islice(numbered, 1000)):
            yield from executor.map(_with_duration, chunk)


def _with_duration(entry: Row | Problem) -> Row | Problem:
    """The row with its duration, or why its recording cannot be used."""
    if isinstance(entry, Problem):
        return entry
    part = Part(audio=Path(entry["audio"]), offset=entry.get("offset", 0), size=entry.get("size"))
    try:
        seconds = part_seconds(part)
    except (AudioError, OSError) as error:
        return Problem(str(part.audio), getattr(error, "problem", str(error)))
    start = entry.get("start")
    if start is None:
        return {**entry, "duration": seconds}
    duration = entry.get("duration", seconds - start)
    if not 0 < duration <= seconds - start + 0.1:
        return Problem(
            f"{part.audio} at {start} s", f"the recording has {seconds:.2f} s, no {duration:.2f} s from there"
        )
    return {**entry, "duration": min(duration, seconds - start)}


def _finished(row: Row, folder: Path, split: str | None) -> Row:
    """Paths below the manifest's folder are relative to it; values that say nothing are left out."""
    audio, folder = Path(row["audio"]).absolute(), folder.absolute()
    row = {key: value for key, value in row.items() if value not in (None, "")}
    row["audio"] = (audio.relative_to(folder) if audio.is_relative_to(folder) else audio).as_posix()
    row["duration"] = round(row["duration"], 6)
    row["split"] = split or row.get("split") or "train"
    return {name: row[name] for name in FIRST_COLUMNS if name in row} | row

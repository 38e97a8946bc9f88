"""Folders of audio: plain ones, with a table of metadata, or with a class a sub-folder (Hugging Face's AudioFolder)."""

import csv
from collections.abc import Iterator
from pathlib import Path

from sewkit.data.importers.common import Problem, Row, audio_files, read_lines, split_of
from sewkit.data.manifest import ManifestError, read_json_lines

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
TEXT_COLUMNS = ("text", "transcription", "transcript", "sentence", "normalized_text")
SPEAKER_COLUMNS = ("speaker", "speaker_id", "client_id")


def folder(source: Path) -> Iterator[Row | Problem]:
    """Every audio file below a folder, unlabelled."""
    for path in audio_files(source):
        yield {"audio": path}


def audiofolder(source: Path) -> Iterator[Row | Problem]:
    """[SPLIT/]LABEL/FILE for classification, or metadata where there are any."""
    if find_metadata(source):
        yield from metadata(source)
        return
    for path in audio_files(source):
        folders = path.relative_to(source).parts[:-1]
        split = split_of(folders[0]) if folders else None
        label = folders[1 if split else 0 :]
        if not label:
            yield Problem(str(path), "it lies in no folder that names its class")
            continue
        yield {"audio": path, "label": label[-1], **({"split": split} if split else {})}


def metadata(source: Path) -> Iterator[Row | Problem]:
    """metadata.csv, .tsv or .jsonl with `file_name` and any columns, beside the audio or in a folder a split."""
    tables = find_metadata(source)
    if not tables:
        raise ManifestError(f"{source}: no {', '.join(METADATA)} in this folder or its splits")
    for table in tables:
        split = split_of(table.parent.name) if table.parent != source else None
        for place, entry in _entries(table):
            name = entry.pop("file_name", None)
            if not name:
                yield Problem(place, "no file_name")
                continue
            row = {"audio": table.parent / name, **({"split": split} if split else {}), **entry}
            yield _renamed(_renamed(row, "text", TEXT_COLUMNS), "speaker", SPEAKER_COLUMNS)


def find_metadata(source: Path) -> list[Path]:
    """The tables of a folder, or of the folders in it."""
    if source.is_file():
        return [source] if source.name in METADATA else []
    here = [source / name for name in METADATA if (source / name).exists()]
    return here[:1] or sorted(path for name in METADATA for path in source.glob(f"*/{name}"))


def _entries(table: Path) -> Iterator[tuple[str, Row]]:
    if table.suffix == ".jsonl":
        yield from read_json_lines(table)
        return
    lines = list(read_lines(table))
    if not lines:
        return
    delimiter = "\t" if table.suffix == ".tsv" else max(",;|", key=lines[0][1].count)
    reader = csv.DictReader((line for _, line in lines), delimiter=delimiter)
    if "file_name" not in (reader.fieldnames or ()):
        raise ManifestError(f"{table}:1: expected a column file_name, found {', '.join(reader.fieldnames or ())}")
    for entry in reader:
        # A line too long gives the key None, one too short the value None.
        yield f"{table}:{reader.line_num}", {key: value for key, value in entry.items() if key and value is not None}


def _renamed(row: Row, name: str, columns: tuple[str, ...]) -> Row:
    """The first of these columns under our name."""
    found = next((column for column in columns if column in row), None)
    if found is None or found == name:
        return row
    return {(name if key == found else key): value for key, value in row.items()}

"""The formats by name, and how one is recognised."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from sewkit.data.importers.common import Problem, Row, audio_files
from sewkit.data.importers.corpora import fairseq, kaldi, librispeech, nemo
from sewkit.data.importers.folders import audiofolder, find_metadata, folder, metadata
from sewkit.data.importers.lhotse import lhotse_cuts, shar
from sewkit.data.manifest import ManifestError, read_json_lines

FORMATS: dict[str, Callable[[Path], Iterator[Row | Problem]]] = {
    "librispeech": librispeech,
    "fairseq": fairseq,
    "nemo": nemo,
    "kaldi": kaldi,
    "metadata": metadata,
    "audiofolder": audiofolder,
    "lhotse": lhotse_cuts,
    "shar": shar,
    "folder": folder,
}


def import_rows(source: Path, name: str | None = None) -> Iterator[Row | Problem]:
    """The entries of a source in a named format, or in the one it is recognised as."""
    if not source.exists():
        raise ManifestError(f"{source}: no such file or folder; check the path")
    if name is not None and name not in FORMATS:
        raise ManifestError(f"format {name!r} is not known; expected {', '.join(FORMATS)}")
    return FORMATS[name or detect_format(source)](source)


def detect_format(source: Path) -> str:
    """The format of a file or folder by what it holds. Raises ManifestError if it is none that can be told."""
    found = _format_of_folder(source) if source.is_dir() else _format_of_file(source)
    if found is None:
        raise ManifestError(f"{source}: its format cannot be told; name one of {', '.join(FORMATS)} with --format")
    return found


def _format_of_file(source: Path) -> str | None:
    if find_metadata(source):
        return "metadata"
    if source.suffix == ".tsv":
        return "fairseq"
    if source.name.endswith((".jsonl.gz", "cuts.jsonl")):
        return "lhotse"
    if source.suffix not in (".json", ".jsonl"):
        return None
    _, first = next(read_json_lines(source), ("", {}))
    return "nemo" if "audio_filepath" in first else "lhotse" if "Cut" in str(first.get("type")) else None


def _format_of_folder(source: Path) -> str | None:
    if (source / "wav.scp").exists():
        return "kaldi"
    if any(source.glob("cuts.*.jsonl*")) and any(source.glob("recording.*.tar")):
        return "shar"
    if find_metadata(source):
        return "metadata"
    if any(path.with_suffix(".ltr").exists() for path in source.glob("*.tsv")):
        return "fairseq"
    if any(islice(source.rglob("*.trans.txt"), 1)):
        return "librispeech"
    return "folder" if audio_files(source) else None

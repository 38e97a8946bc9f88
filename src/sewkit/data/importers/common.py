"""What importers share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sewkit.audio import AUDIO_SUFFIXES
from sewkit.data.manifest import ManifestError

Row: TypeAlias = dict[str, Any]

SPLITS = {"train": "train", "valid": "dev", "validation": "dev", "dev": "dev", "val": "dev", "test": "test"}
"""Names of splits in other layouts -> ours."""


@dataclass(frozen=True)
class Problem:
    """An entry that gives no row, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(file:line, line without its end) of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ManifestError(f"{path}: cannot be read ({reason})") from error


def audio_files(folder: Path) -> list[Path]:
    """All audio files below a folder, in order of name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file())


def split_of(name: str) -> str | None:
    """The split that a folder or file is named for: train-clean-100 -> train, valid -> dev; None if for none."""
    return SPLITS.get(name.replace("_", "-").split("-")[0].lower())

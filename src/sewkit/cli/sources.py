"""What the arguments of a verb name: files, folders, glob patterns, standard input."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable
from pathlib import Path

from sewkit.audio import AUDIO_SUFFIXES, AudioError
from sewkit.errors import UserError

STDIN = "-"


def find_audio(arguments: Iterable[str], on_error: Callable[[AudioError], None]) -> list[str]:
    """Arguments -> paths; folders are searched through in order of name. One without audio is an error."""
    paths: list[str] = []
    for argument in arguments:
        found = _expand(argument)
        if not found:
            problem = "no audio in this folder" if Path(argument).is_dir() else "no file matches this pattern"
            on_error(AudioError(argument, f"{problem}; expected files such as .wav, .flac, .mp3 or .m4a"))
        paths += found
    return list(dict.fromkeys(paths))


def _expand(argument: str) -> list[str]:
    path = Path(argument)
    if path.is_dir():
        return sorted(str(file) for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES and file.is_file())
    if glob.has_magic(argument) and not path.exists():
        return sorted(name for name in glob.glob(argument, recursive=True) if Path(name).is_file())
    return [argument]


def unique_stems(sources: Iterable[str]) -> dict[str, str]:
    """Source -> stem of its output files: the file's own; folders or suffix are put in where two would share one."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for source in sources:
        path = Path("stdin" if source == STDIN else source)
        parts = [part.strip(".") for part in path.with_suffix("").parts if part.strip("./\\")]
        candidates = ["-".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        candidates += [f"{candidates[-1]}{path.suffix.replace('.', '-')}"]
        candidates += [f"{candidates[-1]}-{number}" for number in range(2, len(taken) + 3)]
        stem = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(stem)
        stems[source] = stem
    return stems


def output_formats(names: Iterable[str]) -> list[str]:
    """The formats asked for, `all` spelled out. Raises UserError for an unknown one."""
    from sewkit.transcript import WRITERS

    formats: list[str] = []
    for name in names:
        if name != "all" and name not in WRITERS:
            raise UserError(f"output format {name!r} is not known; expected {', '.join(WRITERS)} or all")
        formats += list(WRITERS) if name == "all" else [name]
    return list(dict.fromkeys(formats))


def total_seconds(paths: list[str]) -> float | None:
    """Seconds of sound in all files by their headers; None where that can't be told."""
    import soundfile

    # What is read of a pipe is gone: a named one, the shell's <(...), or "-", which libsndfile knows too.
    if not all(path != STDIN and Path(path).is_file() for path in paths):
        return None
    try:
        return sum(soundfile.info(path).duration for path in paths)
    except (soundfile.LibsndfileError, OSError):
        return None

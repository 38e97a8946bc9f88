"""`sewkit align`: when each word of a known text is spoken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sewkit.cli.options import (
    BUNDLED,
    Architecture,
    BatchSeconds,
    ComputePoint,
    Device,
    Dtype,
    Json,
    Model,
    OutputDir,
    OutputFormat,
    Threads,
)
from sewkit.errors import UserError

if TYPE_CHECKING:
    from sewkit.cli.recordings import Recordings
    from sewkit.text import Alphabet
    from sewkit.transcript import Alignment


def align(
    audio: Annotated[str, typer.Argument(help="A recording, - for standard input, or a folder or glob pattern.")],
    text: Annotated[
        str | None,
        typer.Argument(help="A text file, or the words themselves; default: the .txt file beside each recording."),
    ] = None,
    model: Model = BUNDLED,
    output_format: OutputFormat = None,
    output_dir: OutputDir = None,
    snap: Annotated[
        bool, typer.Option(help="Let words begin and end with the sound around their letters, not with their letters.")
    ] = True,
    compute: ComputePoint = None,
    device: Device = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
    batch_seconds: BatchSeconds = None,
    architecture: Architecture = None,
    as_json: Json = False,
) -> None:
    """Find when each word and character of a known text is spoken, in recordings of any length.

    A line for each word goes to standard output: start, end, word, confidence. With --output-format or --output-dir
    files are written instead, by default Praat's TextGrid. Words that the recording does not seem to hold are named on
    standard error. A recording or text that cannot be used gets one line there, the others are still done, and the exit
    status is 1.

    Example:  sewkit align interview.mp3 interview.txt -f textgrid -f srt
    """
    from sewkit.cli.output import Output
    from sewkit.cli.recordings import Recordings
    from sewkit.recognizer import load

    output = Output(output_format, output_dir, as_json, default_format="textgrid")
    recordings = Recordings([audio])
    texts = _texts(recordings, text)
    asr = load(model, device=device, dtype=dtype, threads=threads, architecture=architecture)
    asr.batch_seconds = batch_seconds or asr.batch_seconds
    if asr.loaded.alphabet is not None:
        texts = _spelled(recordings, texts, asr.loaded.alphabet)
    recordings.paths = list(texts)
    output.expect(recordings.paths)

    def align_all(inputs: list[Any], **options: Any) -> Iterator[Alignment]:
        return asr.align_batch(zip(inputs, texts.values(), strict=True), compute=compute, snap=snap, **options)

    for alignment in recordings.run(align_all, "aligning"):
        output.give(alignment, _lines(alignment))
        if alignment.missing and not as_json:
            print(f"sewkit: {alignment.source}: {_not_heard(alignment)}", file=sys.stderr)


def _texts(recordings: Recordings, text: str | None) -> dict[str, str]:
    """The text of each recording; one that has none is reported and left out."""
    from sewkit.audio import AudioError
    from sewkit.cli.sources import STDIN

    if text is not None:
        if len(recordings.paths) > 1:
            problem = f"one text goes with one recording, found {len(recordings.paths)}"
            raise UserError(f"{problem}; leave TEXT out and put a .txt of its name beside each recording")
        return {path: _read(Path(text)) if _is_file(text) else text for path in recordings.paths}
    texts = {}
    for path in recordings.paths:
        if not Path(path).exists():
            problem = "needs TEXT on the command line" if path == STDIN else "no such file; check the path"
            recordings.report(AudioError(path, problem))
            continue
        try:
            texts[path] = _read(Path(path).with_suffix(".txt"))
        except UserError as error:
            recordings.report(AudioError(path, f"its text {error}"))
    return texts


def _is_file(text: str) -> bool:
    """Words are no file; what is called .txt should be one."""
    try:
        return text.endswith(".txt") or Path(text).is_file()
    except OSError:  # too long for a name
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a text file with what is spoken"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None


def _spelled(recordings: Recordings, texts: dict[str, str], alphabet: Alphabet) -> dict[str, str]:
    """The texts that can be spelled; others are reported."""
    from sewkit.audio import AudioError
    from sewkit.decode.spelling import spell

    good = {}
    for path, text in texts.items():
        try:
            spell(text, alphabet)
            good[path] = text
        except UserError as error:
            recordings.report(AudioError(path, str(error)))
    return good


def _lines(alignment: Alignment) -> str:
    return "\n".join(
        f"{word.start:.3f}\t{word.end:.3f}\t{word.text}\t{word.confidence:.2f}"
        + ("\tnot heard" if word.missing else "")
        for word in alignment.words
    )


def _not_heard(alignment: Alignment) -> str:
    named = ", ".join(f"{word.text} (near {word.start:.1f} s)" for word in alignment.missing[:5])
    more = ", ..." if len(alignment.missing) > 5 else ""
    return f"{len(alignment.missing)} of {len(alignment.words)} words not heard: {named}{more}"

"""`sewkit transcribe`: recordings to text, subtitles or JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sewkit.cli.options import (
    BUNDLED,
    Architecture,
    Audio,
    BatchSeconds,
    Device,
    Dtype,
    Json,
    Model,
    Threads,
    print_json,
)


def transcribe(
    audio: Audio,
    model: Model = BUNDLED,
    output_format: Annotated[
        list[str] | None,
        typer.Option(
            "--output-format", "-f", help="txt, srt, vtt, tsv, json, ctm or all; may be given more than once."
        ),
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Folder for the written files; default: this one.")
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
    batch_seconds: BatchSeconds = None,
    architecture: Architecture = None,
    as_json: Json = False,
) -> None:
    """Transcribe recordings of any length, format, rate and channel count.

    Text goes to standard output; with --output-format or --output-dir files are written instead. A bad recording gets
    one line on standard error, the others are still done, and the exit status is 1.

    Example:  sewkit transcribe calls/ talk.mp3 --model asapp/sew-d-tiny-100k-ft-ls100h -f srt -o subtitles
    """
    from sewkit.cli.recordings import Recordings
    from sewkit.cli.sources import output_formats, unique_stems
    from sewkit.recognizer import load
    from sewkit.transcript import Transcript, write_transcript

    formats = output_formats(output_format or (["txt"] if output_dir else []))
    recordings = Recordings(audio)
    asr = load(model, device=device, dtype=dtype, threads=threads, architecture=architecture)
    asr.batch_seconds = batch_seconds or asr.batch_seconds
    stems = unique_stems(recordings.paths)

    def deliver(transcript: Transcript) -> None:
        if as_json:
            print_json({"source": transcript.source, **transcript.to_dict()})
        elif not formats:
            typer.echo(transcript.text if len(recordings.paths) == 1 else f"{transcript.source}: {transcript.text}")
        if formats:
            stem = stems.get(transcript.source, "stdin")
            for path in write_transcript(transcript, output_dir or Path(), formats, stem=stem):
                print(f"wrote {path}", file=sys.stderr)

    for transcript in recordings.run(asr.transcribe_batch, "transcribing"):
        deliver(transcript)

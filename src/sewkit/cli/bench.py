"""`sewkit bench`: speed against transformers on the same weights and sound, in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sewkit.cli.options import Json, Threads, print_json


def bench(
    models: Annotated[list[str], typer.Argument(help="Models, or published sizes such as sew-tiny (random weights).")],
    audio: Annotated[list[str], typer.Option("--audio", help="Files, folders or patterns to transcribe.")],
    max_clips: Annotated[int, typer.Option(min=1, help="Use the first so many recordings, by name.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs, after one warm-up.")] = 5,
    threads: Threads = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the figures to this JSON file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time sewkit against transformers' pipeline: same weights, same recordings, run in turn.

    Example:  sewkit bench w2v2-base sew-tiny sew-d-tiny --audio examples --runs 5
    """
    import json

    import torch

    from sewkit.audio import load_audio
    from sewkit.bench.peers import compare_with_transformers
    from sewkit.bench.timing import environment
    from sewkit.cli.sources import find_audio

    if threads is not None:
        torch.set_num_threads(threads)
    clips = [load_audio(path) for path in find_audio(audio, on_error=_fail)[:max_clips]]
    figures: dict[str, Any] = {"environment": environment(), "rows": []}
    for model in models:
        rows = compare_with_transformers(model, clips, runs)
        figures["rows"] += rows
        if not as_json:
            for row in rows:
                typer.echo(_line(row))
    if as_json:
        print_json(figures)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n")


def _fail(error: Exception) -> None:
    raise error


def _line(row: dict[str, Any]) -> str:
    ours, theirs = row["sewkit"]["median"], row["transformers"]["median"]
    return (
        f"{row['model']:<16} {row['way']:<8} {row['clips']} clips, {row['audio_seconds']:.1f} s of audio: "
        f"sewkit {ours:.3f} s, transformers {theirs:.3f} s, {row['times_faster']:.2f} times as fast"
    )

"""`sewkit evaluate`: word error rate of a model on a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sewkit.cli.options import BUNDLED, Device, Json, Threads, print_json


def evaluate(
    manifests: Annotated[list[Path], typer.Argument(help="JSON-lines manifests with audio and text.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id, folder, .pt file or bundled name.")] = BUNDLED,
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder that the manifests' audio paths start from; default: each manifest's own."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the word error rate, with its 95 % bootstrap interval over recordings, one line a manifest.

    Example:  sewkit evaluate recipes/bundled/test-*.jsonl --data-root data
    """
    from sewkit.evaluate.manifest import evaluate_manifest
    from sewkit.recognizer import load

    asr = load(model, device=device, threads=threads)
    for manifest in manifests:
        result = evaluate_manifest(asr, manifest, split=split, data_root=data_root)
        print_json(result.to_dict()) if as_json else typer.echo(str(result))

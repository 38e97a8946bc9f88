"""`sewkit convert`: any checkpoint that can be read, to a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sewkit.cli.options import Architecture, Json, print_json


def convert(
    source: Annotated[str, typer.Argument(help="Hub id, folder, original .pt file, or the bundled model's name.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    architecture: Architecture = None,
    compute: Annotated[
        str | None,
        typer.Option(help="Of a stochastic model, write one operating point only, such as squeeze=3.", metavar="POINT"),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint, such as an original fairseq .pt file, to a folder in transformers' layout.

    One operating point of a stochastic model is a fixed model; without pooling it is a plain SEW.

    Example:  sewkit convert sew_tiny_ft.pt sew-tiny --architecture sew-tiny
    """
    from sewkit import checkpoint

    loaded = checkpoint.convert(source, folder, architecture, compute=compute, half=half)
    parameters = loaded.model.num_parameters()
    if as_json:
        print_json(
            {"source": source, "folder": str(folder), "family": loaded.model.config.family, "parameters": parameters}
        )
    else:
        typer.echo(f"wrote {folder}: {loaded.model.config.family}, {parameters / 1e6:.2f} M parameters")

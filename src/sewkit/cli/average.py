"""`sewkit average`: the mean of several models' weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sewkit.cli.options import Json, print_json


def average(
    sources: Annotated[list[str], typer.Argument(help="Two models or more: folders, hub ids, original .pt files.")],
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new or empty.")],
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    as_json: Json = False,
) -> None:
    """Average the weights of models that were trained from one start with different seeds.

    The result costs what one of them does, and often makes fewer errors than each.

    Example:  sewkit average runs/seed1/model runs/seed2/model -o runs/mean
    """
    from sewkit import checkpoint

    mean = checkpoint.average(sources, folder, half=half)
    if as_json:
        print_json({"sources": sources, "folder": str(folder), "parameters": mean.model.num_parameters()})
    else:
        typer.echo(f"wrote {folder}: the mean of {len(sources)} models")

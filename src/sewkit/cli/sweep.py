"""`sewkit sweep`: every operating point of a stochastic model, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sewkit.cli.options import Device, Json, Threads, print_json


def sweep(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Stochastic models; or published sizes such as sew-small, made stochastic (random weights)."
        ),
    ],
    time_only: Annotated[bool, typer.Option("--time-only", help="Measure times.")] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the clip.")] = 10.0,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs, after one warm-up.")] = 5,
    device: Device = None,
    threads: Threads = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write the figures to this JSON file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the time of a forward pass at every operating point, one clip at a time, all points in turn.

    Example:  sewkit sweep sew-small sew-tiny --time-only --seconds 10 --threads 1
    """
    import json

    import torch

    from sewkit.bench.grid import time_grid
    from sewkit.bench.timing import environment
    from sewkit.errors import UserError
    from sewkit.runtime.pytorch import pick_device

    if not time_only:
        raise UserError("sweep measures times: give --time-only")
    if threads is not None:
        torch.set_num_threads(threads)
    where = pick_device(device)
    figures: dict[str, Any] = {
        "environment": environment(),
        "device": str(where),
        "clip_seconds": seconds,
        "models": {},
    }
    for name in models:
        figures["models"][name] = rows = time_grid(_stochastic(name).to(where), seconds, runs)
        if not as_json:
            _print(name, rows)
    if as_json:
        print_json(figures)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n")


def _stochastic(name: str) -> Any:
    from sewkit.checkpoint import load_model
    from sewkit.config import PUBLISHED, Stochastic
    from sewkit.model import build_model

    if name in PUBLISHED:
        return build_model(PUBLISHED[name].replace(**Stochastic().model_dump())).eval()
    return load_model(name).model


def _print(name: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name, title_justify="left")
    table.add_column("operating point", no_wrap=True)
    for column in ("MMAC/s", "ms", "speed-up", "extractor"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["point"],
            f"{row['macs_per_second'] / 1e6:,.0f}",
            f"{row['seconds']['median'] * 1e3:,.0f}",
            f"{row['times_as_fast']:.2f}",
            f"{row['extractor_share']:.0%}",
        )
    Console().print(table)

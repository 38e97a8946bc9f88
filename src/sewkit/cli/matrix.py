"""`sewkit matrix`: a matrix of experiments from one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sewkit.cli.options import Json, print_json

if TYPE_CHECKING:
    from sewkit.train.matrix import Matrix


def matrix(
    file: Annotated[Path, typer.Argument(help="A YAML file: experiments, their arms, seeds, and what follows what.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Run nothing: say what is done, and show the table so far.")
    ] = False,
    only: Annotated[
        str, typer.Option(help="Run only cells with such names, so that two processes can share a matrix.")
    ] = "*",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a recipe, to try the matrix out; give -o beside.", metavar="EXPERIMENT.KEY=VALUE"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for runs and results, in place of those that the file names."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Run pre-trainings and fine-tunings cell by cell, over arms and seeds; then print means over seeds.

    Finished cells have a JSON file and are skipped. Ctrl-C saves the one that runs; the same command goes on.

    Example:  sewkit matrix recipes/small/matrix-stochastic.yaml --only "fixed-*"
    """
    from sewkit.bench.timing import environment
    from sewkit.train.cells import run_matrix
    from sewkit.train.matrix import changed, chosen, load_matrix, result_of
    from sewkit.train.seeds import table_of
    from sewkit.train.state import Checkpoints

    whole = changed(load_matrix(file), overrides or [], output)
    failed: dict[str, str] = {}
    if dry_run:
        for cell in chosen(whole, only):
            started = bool(Checkpoints(whole.output / cell.name).paths())
            state = "done" if result_of(whole, cell) else "half done" if started else "to do"
            typer.echo(f"{state:<9}  {cell.name}", err=True)
    else:
        failed = run_matrix(whole, environment(), lambda line: typer.echo(line, err=True), only)
    if as_json:
        rows = {row: {name: vars(mean) for name, mean in means.items()} for row, means in table_of(whole).items()}
        print_json({"rows": rows, "failed": failed})
    else:
        _print_table(whole)
    for name, reason in failed.items():
        typer.echo(f"sewkit: {name}: {reason}", err=True)
    if failed:
        raise typer.Exit(1)


def _print_table(whole: Matrix) -> None:
    """One line a figure: rows differ in what is measured of them."""
    from sewkit.train.seeds import table_of

    for row, means in table_of(whole).items():
        for name, mean in means.items():
            seeds = f"{mean.num_seeds} seed" + ("s" if mean.num_seeds > 1 else "")
            typer.echo(f"{row:<32}  {name:<40}  {mean!s:<20}  {seeds}")

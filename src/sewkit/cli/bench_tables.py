"""What `sewkit bench` shows on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from sewkit.bench.suite import Report

Row = dict[str, Any]
WIDTH = 160
"""Columns where there is no terminal to fit."""


def print_speed(report: Report) -> None:
    """A table for each case, the fastest first."""
    cases = dict.fromkeys((row["model"], row["point"], row["seconds"], row["batch_size"]) for row in report.rows)
    for case in cases:
        rows = [row for row in report.rows if (row["model"], row["point"], row["seconds"], row["batch_size"]) == case]
        model, point, seconds, batch_size = case
        _print(_speed_table(f"{model} at {point}: {batch_size} x {seconds:g} s", rows))
    typer.echo("peer, tf fp32: how many times as fast as the fastest peer at this precision, and as transformers' fp32")
    typer.echo(hardware(report.environment))


def _speed_table(title: str, rows: Sequence[Row]) -> Table:
    table = _table(
        title, ("system", "", "ms", "quartiles", "x real time", "GFLOP/s", "of rate", "peer", "tf fp32", "MiB")
    )
    for row in sorted(rows, key=lambda row: row["median_ms"]):
        table.add_row(
            row["system"],
            row["precision"],
            f"{row['median_ms']:,.1f}",
            f"{row['quartile_1_ms']:,.1f}-{row['quartile_3_ms']:,.1f}",
            f"{row['times_real_time']:,.1f}",
            f"{row['gflops']:,.0f}",
            f"{row['share_of_matrix_rate']:.0%}",
            times(row["times_fastest_peer"]),
            times(row["times_transformers_fp32"]),
            "" if row["peak_mib"] is None else f"{row['peak_mib']:,.0f}",
            style=None if row["is_peer"] else "bold",
        )
    return table


def print_stages(report: dict[str, Any]) -> None:
    """Stages with their floors, and what the floors are made of."""
    title = f"{report['model']} at {report['point']}: {report['seconds']:g} s, {report['dtype']}"
    table = _table(title, ("stage", "", "ms", "share", "floor ms", "products", "floor reached"))
    for row in report["stages"]:
        reached = row["floor_reached"]
        table.add_row(
            row["stage"],
            "",
            f"{row['ms']:,.2f}",
            f"{row['share']:.0%}",
            _milliseconds(row["floor_ms"]),
            _milliseconds(row["products_ms"]),
            "" if reached is None else f"{reached:.0%}",
        )
    _print(table)
    micros = _table("floors: micro-benchmarks of the same shapes", ("stage", "work", "fastest way", "ms", "GFLOP/s"))
    for row in report["micros"]:
        rate = f"{row['gflops']:,.0f}" if row["macs"] else ""
        micros.add_row(row["stage"], row["work"], row["way"], f"{row['ms']:,.2f}", rate)
    _print(micros)


def print_throughput(figures: dict[str, Any]) -> None:
    """A row for each way; memory is the most in each quarter of the last pass."""
    title = f"{figures['model']}: {figures['recordings']} recordings, {figures['audio_seconds']:,.0f} s"
    columns = ("way", "", "seconds", "spread", "x real time", "x peer", "busy", "differ", "MiB by quarter")
    table = _table(title, columns)
    for row in figures["rows"]:
        differing = row["differ_from_one_by_one"]
        table.add_row(
            row["way"],
            "",
            f"{row['median_seconds']:,.1f}",
            f"{row['min_seconds']:,.1f}-{row['max_seconds']:,.1f}",
            f"{row['times_real_time']:,.1f}",
            times(row["times_peer"]),
            f"{row['busy']:.0%}",
            "" if differing is None else f"{differing}",
            " ".join(f"{mib:,.0f}" for mib in row["mib_by_quarter"]),
        )
    _print(table)
    if figures["peer_batch_size"] is not None:
        typer.echo(f"transformers' pipeline at its best batch size, {figures['peer_batch_size']}")
    typer.echo(hardware(figures["environment"]))


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def times(value: float | None) -> str:
    """A ratio, or nothing."""
    return "" if value is None else f"{value:.2f}"


def hardware(environment: dict[str, Any]) -> str:
    """What the figures were measured with, on one line."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    where = environment["gpu"] or environment["cpu"]
    return (
        f"{where}, {environment['threads']} of {environment['cores']} cores, torch {environment['torch']}, {versions}, "
        f"{environment['date']}"
    )


def _table(title: str, columns: Sequence[str]) -> Table:
    """The first two columns are words, the others numbers."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(table)

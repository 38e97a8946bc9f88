"""Measured rows as files: JSON with all there is to know, CSV, and a picture as PNG and SVG."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sewkit.bench.suite import Report
from sewkit.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OURS, PEERS = "#0072b2", "#999999"
Row = dict[str, Any]


def write_json(path: Path, value: Any) -> Path:
    """Indented, whole or not at all."""
    with replacing(path) as draft:
        draft.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Row]) -> Path:
    """A line for each row, a column for each key of the first."""
    with replacing(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else [])
        table.writeheader()
        table.writerows(rows)
    return path


def write_pictures(path: Path, figure: Figure) -> list[Path]:
    """The same picture as PNG and SVG; `path` is without suffix."""
    paths = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for each in paths:
        with replacing(each) as draft:
            figure.savefig(draft, format=each.suffix[1:], dpi=150)
    return paths


def write_report(folder: Path, report: Report) -> list[Path]:
    """speed.json, speed.csv, speed.png and speed.svg. Raises MissingExtraError without matplotlib."""
    return [
        write_json(folder / "speed.json", asdict(report)),
        write_csv(folder / "speed.csv", report.rows),
        *write_pictures(folder / "speed", draw(report)),
    ]


def write_stages(folder: Path, reports: Sequence[dict[str, Any]], environment: dict[str, Any]) -> list[Path]:
    """stages.json with all, stages.csv with the stages of each model, floor.csv with what the floors are made of."""
    named = [(report, {"model": report["model"], "point": report["point"]}) for report in reports]
    return [
        write_json(folder / "stages.json", {"environment": environment, "models": list(reports)}),
        write_csv(folder / "stages.csv", [{**name, **row} for report, name in named for row in report["stages"]]),
        write_csv(folder / "floor.csv", [{**name, **row} for report, name in named for row in report["micros"]]),
    ]


def write_throughput(folder: Path, figures: dict[str, Any]) -> list[Path]:
    """throughput.json and throughput.csv."""
    return [
        write_json(folder / "throughput.json", figures),
        write_csv(folder / "throughput.csv", figures["rows"]),
    ]


def draw(report: Report) -> Figure:
    """A panel for each case: median milliseconds of each system with the quartiles, ours in colour."""
    from matplotlib.figure import Figure

    cases = _grouped(report.rows, lambda row: (row["model"], row["point"], row["seconds"], row["batch_size"]))
    height = sum(1.0 + 0.25 * len(rows) for rows in cases.values())
    figure = Figure(figsize=(8, max(2.0, height)), layout="constrained")
    panels = figure.subplots(
        max(1, len(cases)), squeeze=False, height_ratios=[1.0 + 0.25 * len(rows) for rows in cases.values()] or None
    )
    for axes, ((model, point, seconds, batch_size), rows) in zip(panels[:, 0], cases.items(), strict=False):
        rows = sorted(rows, key=lambda row: row["median_ms"], reverse=True)
        names = [f"{row['system']} {row['precision']}" for row in rows]
        medians = [row["median_ms"] for row in rows]
        below = [row["median_ms"] - row["quartile_1_ms"] for row in rows]
        above = [row["quartile_3_ms"] - row["median_ms"] for row in rows]
        colours = [PEERS if row["is_peer"] else OURS for row in rows]
        axes.barh(names, medians, xerr=[below, above], color=colours, ecolor="black", capsize=2)
        axes.set_title(f"{model} at {point}: {batch_size} x {seconds:g} s", parse_math=False, loc="left")
        axes.set_xlabel(f"ms, median and quartiles ({report.environment['cpu']}, {_threads(report)})")
        axes.grid(axis="x", alpha=0.3)
    return figure


def _threads(report: Report) -> str:
    return f"threads {report.environment['threads']}"


def _grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups

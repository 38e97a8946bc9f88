"""A measured curve as files: a table, JSON, and a picture of errors against time with its Pareto front."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sewkit.compute import Compute
from sewkit.curve import Curve, MeasuredPasses, MeasuredPoint
from sewkit.errors import MissingExtraError
from sewkit.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Of squeeze factors; told apart with any colour vision (Okabe and Ito)."""


def require_plot() -> None:
    """Before hours of measuring: raises MissingExtraError without matplotlib."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("drawing a Pareto front", "plot")


Names = Mapping[str, Compute]
"""What `full`, `balanced` and `fast` mean: by the curve, or by another that is stored with the model."""


def facts(curve: Curve, names: Names | None = None) -> dict[str, Any]:
    """What is stored with the model, and what follows from it: the front, and the points that have names."""
    return {
        **curve.model_dump(mode="json"),
        "front": [point.point for point in curve.front],
        "names": {name: str(point) for name, point in (names or curve.names).items()},
        **_facts_of_passes(curve),
    }


def _facts_of_passes(curve: Curve) -> dict[str, Any]:
    """Which two passes --refine uses, and which beat every single point, where two passes were measured."""
    chosen = curve.refined()
    if chosen is None:
        return {}
    below = [one.model_dump(mode="json") for one in curve.two_passes if curve.beats_points(one)]
    return {"refined": chosen.model_dump(mode="json"), "beat_every_point": below}


def write_sweep(folder: Path, curve: Curve, names: Names | None = None) -> list[Path]:
    """Write sweep.csv, sweep.json, pareto.png and pareto.svg, each whole or not at all; gives back their paths.

    Raises MissingExtraError without matplotlib, then nothing is written, and UserError where a file cannot be.
    """
    figure = draw(curve, names)
    with replacing(folder / "sweep.csv") as draft, draft.open("w", newline="", encoding="utf-8") as file:
        columns = dict.fromkeys([*MeasuredPoint.model_fields, "on_front", *MeasuredPasses.model_fields])
        table = csv.DictWriter(file, list(columns))
        table.writeheader()
        table.writerows({**point.model_dump(), "on_front": int(point in curve.front)} for point in curve.points)
        table.writerows(one.model_dump() for one in curve.two_passes)
    with replacing(folder / "sweep.json") as draft:
        draft.write_text(json.dumps(facts(curve, names), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for kind in ("png", "svg"):
        with replacing(folder / f"pareto.{kind}") as draft:
            figure.savefig(draft, format=kind, dpi=150)
    return [folder / name for name in ("sweep.csv", "sweep.json", "pareto.png", "pareto.svg")]


def draw(curve: Curve, names: Names | None = None) -> Figure:
    """Word error rate with its interval against the time of a clip; names stand at their points.

    The time is the median; beside two passes, of which few clips may take much longer than most, it is the mean.
    """
    require_plot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    factors = sorted({point.compute.squeeze for point in curve.points})
    for index, factor in enumerate(factors):
        _draw_points(axes, curve, factor, COLOURS[index % len(COLOURS)])
    front = curve.front
    axes.step(
        [_milliseconds(curve, point) for point in front],
        [100 * point.wer for point in front],
        where="post",
        color="black",
        linewidth=1,
        zorder=1,
        label="Pareto front",
    )
    _draw_passes(axes, curve)
    _write_names(axes, curve, names or curve.names)
    average = "mean" if curve.two_passes else "median"
    axes.set(
        xlabel=f"{average} time of a clip, ms (device {curve.device}, threads {curve.environment.get('threads', '?')})",
        ylabel=f"word error rate, % ({curve.interval})",
    )
    axes.set_title(f"{Path(curve.model).name} on {', '.join(curve.data)}: {curve.num_clips} clips", parse_math=False)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    axes.margins(0.05, 0.15)
    axes.set_ylim(bottom=0)
    return figure


def _milliseconds(curve: Curve, one: MeasuredPoint | MeasuredPasses) -> float:
    seconds = one.real_time_factor * curve.audio_seconds / curve.num_clips if curve.two_passes else one.seconds_median
    return 1e3 * seconds


def _draw_points(axes: Axes, curve: Curve, factor: int, colour: str) -> None:
    """Of one squeeze factor; those on the front are filled."""
    axes.plot([], [], "o", color=colour, label=f"squeeze={factor}")
    for point in curve.points:
        if point.compute.squeeze != factor:
            continue
        axes.errorbar(
            _milliseconds(curve, point),
            100 * point.wer,
            yerr=[[100 * max(0, point.wer - point.wer_low)], [100 * max(0, point.wer_high - point.wer)]],
            fmt="o",
            color=colour,
            markerfacecolor=colour if point in curve.front else "white",
            alpha=1 if point in curve.front else 0.6,
            elinewidth=0.8,
        )


def _draw_passes(axes: Axes, curve: Curve) -> None:
    """Two passes as crosses, bold where they beat every single point."""
    if not curve.two_passes:
        return
    axes.plot([], [], "x", color="black", label="two passes")
    for one in curve.two_passes:
        axes.errorbar(
            _milliseconds(curve, one),
            100 * one.wer,
            yerr=[[100 * max(0, one.wer - one.wer_low)], [100 * max(0, one.wer_high - one.wer)]],
            fmt="x",
            color="black",
            markeredgewidth=2 if curve.beats_points(one) else 1,
            alpha=1 if curve.beats_points(one) else 0.4,
            elinewidth=0.6,
        )


def _write_names(axes: Axes, curve: Curve, named: Names) -> None:
    """Names that share a point share a label, which lies toward the middle of the picture."""
    middle = sum(axes.get_xlim()) / 2
    for point in curve.points:
        if names := [name for name, compute in named.items() if compute == point.compute]:
            place = _milliseconds(curve, point)
            axes.annotate(
                f"{', '.join(names)}\n{point.point}",
                (place, 100 * point.wer),
                xytext=(36, 12) if place < middle else (-36, 12),
                textcoords="offset points",
                ha="left" if place < middle else "right",
                arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.8},
                fontsize="small",
            )

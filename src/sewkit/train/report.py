"""A picture of a run, `report.png`, from its `log.jsonl`: what the log holds, a panel each, with the stages marked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sewkit.errors import MissingExtraError, UserError
from sewkit.files import replacing
from sewkit.train.metrics import LOG_NAME, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REPORT_NAME = "report.png"

Line = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """A title, and which metrics belong there."""

    title: str
    holds: Callable[[str], bool]
    logarithmic: bool = False


def _starts(*beginnings: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(beginnings)


PANELS = (
    Panel("loss", _starts("loss", "contrastive", "ctc", "cross_entropy", "diversity", "feature_penalty")),
    Panel("accuracy", _starts("accuracy", "right_letters")),
    Panel("error rate", _starts("wer", "cer")),
    Panel("perplexity of the code books", lambda name: "perplexity" in name),
    Panel("similarity", lambda name: name.endswith("_similarity")),
    Panel("learning rate", lambda name: name == "learning_rate"),
    Panel("gradient norm", lambda name: name == "grad_norm", logarithmic=True),
)


def write_report(folder: Path, console: Console | None = None) -> bool:
    """Draw `report.png` into a run's folder; one line on the console instead where that cannot be done."""
    try:
        draw_report(folder / LOG_NAME, folder / REPORT_NAME)
    except UserError as error:
        (console or Console(stderr=True)).print(
            f"no {REPORT_NAME}: {error}", highlight=False, markup=False, soft_wrap=True
        )
        return False
    return True


def draw_report(log: Path, picture: Path) -> None:
    """Draw a log's lines. Raises MissingExtraError without matplotlib, UserError where there is nothing to draw."""
    lines = read_log(log)
    panels = [(panel, names) for panel in PANELS if (names := metrics_of(lines, panel))]
    if not panels:
        raise UserError(f"{log}: no lines to draw; the run has ended before its first log line")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing a report", "plot") from None
    num_rows = -(-len(panels) // 2)
    figure = Figure(figsize=(12, 0.6 + 2.8 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, min(len(panels), 2), squeeze=False, sharex=True).ravel()
    for axes, (panel, names) in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, names, lines)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(log.absolute().parent.name)
    with replacing(picture) as draft:
        figure.savefig(draft, format="png", dpi=110)


def metrics_of(lines: list[Line], panel: Panel) -> list[str]:
    """Names of the panel's metrics that the log holds, in the order in which they first come."""
    return list(dict.fromkeys(name for line in lines for name in line if panel.holds(name)))


def _draw_panel(axes: Axes, panel: Panel, names: list[str], lines: list[Line]) -> None:
    for name in names:
        measured = all("learning_rate" not in line for line in lines if name in line)
        axes.plot(*_curve(lines, name), label=name, linewidth=1.2, marker="o" if measured else "", markersize=3)
    for step, stage in stage_starts(lines):
        axes.axvline(step, color="grey", linewidth=0.8, linestyle=":")
        axes.annotate(
            stage,
            (step, 0),
            xycoords=("data", "axes fraction"),
            xytext=(3, 4),
            textcoords="offset points",
            fontsize=7,
            color="grey",
            parse_math=False,
            zorder=1,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1},
        )
    if panel.logarithmic:
        axes.set_yscale("log")
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("update", fontsize=8)
    axes.tick_params(labelsize=8, labelbottom=True, which="both")
    axes.grid(alpha=0.3)
    if names not in (["learning_rate"], ["grad_norm"]):
        axes.legend(fontsize=8)


def _curve(lines: list[Line], name: str) -> tuple[list[int], list[float]]:
    """Updates and values of a metric; nan between two stages, so that no line joins them."""
    steps: list[int] = []
    values: list[float] = []
    stage = None
    for line in lines:
        if line.get(name) is None:
            continue
        if stage is not None and line["stage"] != stage:
            steps.append(line["step"])
            values.append(math.nan)
        stage = line["stage"]
        steps.append(line["step"])
        values.append(line[name])
    return steps, values


def stage_starts(lines: list[Line]) -> list[tuple[int, str]]:
    """(updates before it, name) of every stage."""
    starts: dict[int, str] = {}
    for line in lines:
        starts.setdefault(line["step"] - line["update"], line["stage"])
    return sorted(starts.items())

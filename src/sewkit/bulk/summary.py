"""What a job leaves behind at its end: summary.json, and summary.png where matplotlib is installed."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from sewkit.bulk.shards import PLOT, SUMMARY
from sewkit.bulk.stages import DECODE, TRANSCRIBE
from sewkit.bulk.storage import Folder
from sewkit.bulk.tally import Tally

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOG = logging.getLogger(__name__)
_WINDOWS = 60


def write(folder: Folder, tally: Tally, facts: dict[str, Any]) -> dict[str, Any]:
    """Write both into the output; returns what summary.json holds."""
    report = {**facts, **tally.to_dict()}
    report["run"]["efficiency"] = efficiency(tally, facts["cores"])
    folder.write(SUMMARY, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
    try:
        folder.write(PLOT, draw(tally))
    except ImportError:
        _LOG.warning("no %s: pip install 'sewkit[plot]'", PLOT)
    return report


def efficiency(tally: Tally, cores: int) -> float:
    """Share of the cores' time, from the start of the program on, that went into decoding sound and into the model."""
    return (tally.watch.cpu[DECODE] + tally.watch.cpu[TRANSCRIBE]) / (cores * tally.elapsed)


def draw(tally: Tally) -> bytes:
    """A PNG: speed and operating points over time, stages, confidence, errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_speed(axes[0, 0], tally)
    _draw_points(axes[0, 1], tally)
    _draw_bars(axes[1, 0], {name: 100 * share for name, share in tally.shares().items()}, "time by stage, %")
    if tally.errors:
        _draw_bars(axes[1, 1], dict(tally.errors.most_common()), "errors by kind, recordings")
    else:
        edges = np.linspace(0, 1, len(tally.confidences) + 1)
        axes[1, 1].stairs(tally.confidences, edges, fill=True)
        axes[1, 1].set(title="recordings by confidence (no errors)", xlabel="mean confidence of the words")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _draw_speed(axes: Axes, tally: Tally) -> None:
    """In windows of equal time, as lots come at any moment."""
    times = np.array([0.0, *(moment.elapsed for moment in tally.history)])
    audio = np.array([0.0, *(moment.audio_seconds for moment in tally.history)])
    grid = np.linspace(0, times[-1] or 1.0, min(_WINDOWS, len(times)) + 1)
    axes.stairs(np.diff(np.interp(grid, times, audio)) / np.diff(grid), grid / 60, baseline=None)
    axes.set(title="hours of audio per hour", xlabel="minutes", ylim=(0, None))


def _draw_points(axes: Axes, tally: Tally) -> None:
    times = [moment.elapsed / 60 for moment in tally.history]
    points = [moment.point for moment in tally.history]
    axes.plot(times, points or [], ".", markersize=3)
    axes.set(title="operating point", xlabel="minutes")


def _draw_bars(axes: Axes, values: dict[str, float], title: str) -> None:
    axes.barh(list(values), list(values.values()))
    axes.invert_yaxis()
    axes.set(title=title)

"""What a matrix found so far: means over seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sewkit.train.matrix import Matrix, cells_of, result_of

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 95 % intervals, by degrees of freedom from 1 on; beyond, 2 is near enough."""


@dataclass(frozen=True)
class Mean:
    """Over seeds, with half the width of its 95 % interval (Student's t); None where there is one seed."""

    value: float
    half_width: float | None
    num_seeds: int

    def __str__(self) -> str:
        half = "" if self.half_width is None else f" ± {float(f'{self.half_width:.2g}'):g}"
        return f"{float(f'{self.value:.4g}'):g}{half}"


def mean_over_seeds(values: list[float]) -> Mean:
    """Of at least one value."""
    count, mean = len(values), sum(values) / len(values)
    if count == 1:
        return Mean(mean, None, 1)
    deviation = (sum((value - mean) ** 2 for value in values) / (count - 1)) ** 0.5
    quantile = T_95[count - 2] if count - 2 < len(T_95) else 2.0
    return Mean(mean, quantile * deviation / count**0.5, count)


def table_of(matrix: Matrix) -> dict[str, dict[str, Mean]]:
    """{row: {metric: mean over the seeds that are done}}."""
    rows: dict[str, dict[str, list[float]]] = {}
    for cell in cells_of(matrix):
        if (result := result_of(matrix, cell)) is not None:
            metrics = rows.setdefault(cell.row, {})
            for name, value in figures(result):
                metrics.setdefault(name, []).append(value)
    return {row: {name: mean_over_seeds(values) for name, values in metrics.items()} for row, metrics in rows.items()}


def figures(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """What of a result is worth comparing: evaluated rates, or for a pre-training what was measured on dev sets."""
    for name, rates in result["evaluated"].items():
        for metric, rate in rates.items():
            yield f"{metric} {name}", rate["rate"] if isinstance(rate, dict) else rate
    if not result["evaluated"]:
        yield from result["measured"].items()
    for point, sets in result.get("grid", {}).items():
        for metric, rate in sets["all"].items():
            yield f"{metric} all at {point}", rate["rate"]
    yield "seconds", result["seconds"]

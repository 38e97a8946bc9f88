"""What matrix-stochastic.yaml found, as tables and a picture: the paper's three claims (arXiv 2204.11934).

(a) the errors of one model at all its points, (b) what it loses against models of one setting with as many updates,
(c) what specialising gives back; then the same pipeline with pre-training. Means over seeds with 95 % intervals
(Student's t); differences are taken seed by seed, as cells of one seed saw the same strings.

    python recipes/stochastic/report.py recipes/small/matrix-stochastic.yaml --times sweep.json -o runs/small/report

`--times` is the sweep.json of one of the models, measured on an idle machine: a point costs the same in all of them.
Without it points stand by their multiply-accumulates. Cells that are not done yet are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sewkit.bench.pareto import COLOURS
from sewkit.compute import Compute, macs
from sewkit.config import ModelConfig
from sewkit.files import replacing
from sewkit.train.matrix import Matrix, cells_of, load_matrix, result_of
from sewkit.train.recipe import FinetuneRecipe, load_recipe
from sewkit.train.seeds import Mean, mean_over_seeds

SQUEEZES = (1, 2, 4)
SHARES = (10, 25)
Rates = Mapping[str, Mapping[str, Mapping[int, float]]]
"""{row of the matrix: {operating point: {seed: rate over all test sets}}}."""


@dataclass(frozen=True)
class Costs:
    """What a point costs, in a unit; the unit's name."""

    of_point: Mapping[str, float]
    unit: str


def rates_of(matrix: Matrix, metric: str) -> Rates:
    """Of all cells that are done and have a grid; metric: wer or cer."""
    rates: dict[str, dict[str, dict[int, float]]] = {}
    for cell in cells_of(matrix):
        result = result_of(matrix, cell)
        for point, sets in (result or {}).get("grid", {}).items():
            rates.setdefault(cell.row, {}).setdefault(point, {})[cell.seeds[-1]] = sets["all"][metric]["rate"]
    return rates


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> Mean | None:
    """Of the seeds that both have; None without any."""
    seeds = sorted(first.keys() & second.keys())
    return mean_over_seeds([first[seed] - second[seed] for seed in seeds]) if seeds else None


def percent(mean: Mean | None, sign: str = "") -> str:
    """As 12.3 ± 0.4, in percent."""
    if mean is None:
        return "to do"
    return f"{100 * mean.value:{sign}.1f}" + ("" if mean.half_width is None else f" ± {100 * mean.half_width:.1f}")


def mean_of(values: Mapping[int, float] | None) -> Mean | None:
    """Over seeds."""
    return mean_over_seeds(list(values.values())) if values else None


# ---- the claims ----------------------------------------------------------------------------------------------------


def curve(wer: Rates, cer: Rates, costs: Costs) -> list[list[str]]:
    """(a): every point of the stochastic model, cheapest first; marked where more compute made more errors for sure."""
    points = sorted(wer.get("stochastic", {}), key=costs.of_point.__getitem__)
    rows = [["point", costs.unit, "WER, %", "CER, %", "against the next cheaper"]]
    for before, point in zip([None, *points], points, strict=False):
        change = difference(wer["stochastic"][point], wer["stochastic"][before]) if before else None
        surely_worse = change is not None and change.half_width is not None and change.value > change.half_width
        rates = (percent(mean_of(metric["stochastic"][point])) for metric in (wer, cer))
        shown = "" if change is None else percent(change, "+") + (" (worse)" if surely_worse else "")
        rows.append([point, f"{costs.of_point[point]:,.1f}", *rates, shown])
    return rows


def losses(rates: Rates) -> list[list[str]]:
    """(b) and (c): at each setting, the model of that setting alone, the stochastic one, and it specialised."""
    rows = [["setting", "fixed", "stochastic", "loss"]]
    rows[0] += [f"{what} {share} %" for share in SHARES for what in ("specialised", "left of the loss after")]
    for squeeze in SQUEEZES:
        point = f"squeeze={squeeze}"
        fixed = rates.get(f"fixed s{squeeze}", {}).get(point, {})
        stochastic = rates.get("stochastic", {}).get(point, {})
        row = [
            point,
            percent(mean_of(fixed)),
            percent(mean_of(stochastic)),
            percent(difference(stochastic, fixed), "+"),
        ]
        for share in SHARES:
            special = rates.get(f"specialised s{squeeze}-{share}", {}).get(point, {})
            row += [percent(mean_of(special)), percent(difference(special, fixed), "+")]
        rows.append(row)
    return rows


def pairs(wer: Rates, cer: Rates) -> list[list[str]]:
    """Pre-trained and fine-tuned, all measured at squeeze 2."""
    named = {
        "both at squeeze 2": "paired-words-from-s2",
        "pre-trained stochastic, fine-tuned at squeeze 2": "paired-words-s2",
        "both stochastic": "paired-words-all",
        **{f"both stochastic, then {share} % more at squeeze 2": f"paired-specialised s2-{share}" for share in SHARES},
    }
    rows = [["pre-training and fine-tuning", "WER, %", "CER, %", "WER against the first"]]
    base = wer.get("paired-words-from-s2", {}).get("squeeze=2", {})
    for title, row in named.items():
        found = wer.get(row, {}).get("squeeze=2", {})
        rates = (percent(mean_of(metric.get(row, {}).get("squeeze=2"))) for metric in (wer, cer))
        rows.append([title, *rates, percent(difference(found, base), "+") if found is not base else ""])
    return rows


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


# ---- costs and the picture -----------------------------------------------------------------------------------------


def costs_of(wer: Rates, times: Path | None, config: ModelConfig) -> Costs:
    """Measured milliseconds of a clip, or MACs for a second of sound in a clip of ten."""
    points = {point for row in wer.values() for point in row}
    if times is not None:
        measured = json.loads(times.read_text(encoding="utf-8"))["points"]
        return Costs({one["point"]: 1e3 * one["seconds_median"] for one in measured}, "ms a clip")
    counted = {point: sum(macs(config, 160_000, Compute.parse(point)).values()) / 1e7 for point in points}
    return Costs(counted, "MMAC/s")


def draw(wer: Rates, costs: Costs) -> Any:
    """Word errors against cost: the stochastic model's points, and the models of one setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    kinds = {"stochastic": ("stochastic", "o")}
    kinds |= {f"fixed s{squeeze}": ("fixed", "s") for squeeze in SQUEEZES}
    kinds |= {f"specialised s{squeeze}-{SHARES[-1]}": (f"specialised, {SHARES[-1]} %", "^") for squeeze in SQUEEZES}
    colours = dict(zip(dict.fromkeys(label for label, _ in kinds.values()), COLOURS, strict=False))
    for row, (label, marker) in kinds.items():
        for point, values in wer.get(row, {}).items():
            mean = mean_over_seeds(list(values.values()))
            axes.errorbar(
                costs.of_point[point],
                100 * mean.value,
                yerr=100 * (mean.half_width or 0),
                fmt=marker,
                color=colours[label],
                alpha=1 if Compute.parse(point).is_pooled is False else 0.4,
                elinewidth=0.8,
            )
    for label, marker in dict(kinds.values()).items():
        axes.plot([], [], marker, color=colours[label], label=label)
    axes.set(xlabel=costs.unit, ylabel="word error rate, % (mean and 95 % interval over seeds)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    return figure


def main() -> None:
    """Print, and write into a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("matrix", type=Path)
    parser.add_argument("--results", type=Path, help="folder of the JSON files, in place of the matrix's")
    parser.add_argument("--times", type=Path, help="a sweep.json")
    parser.add_argument("-o", "--output", type=Path, help="folder for stochastic.md, .json, .png and .svg")
    options = parser.parse_args()
    matrix = load_matrix(options.matrix)
    if options.results:
        matrix = matrix.model_copy(update={"results": options.results})
    wer, cer = rates_of(matrix, "wer"), rates_of(matrix, "cer")
    costs = costs_of(wer, options.times, architecture(matrix))
    tables = {
        "One model at all its points": curve(wer, cer, costs),
        "WER, %, at three settings": losses(wer),
        "CER, %, at three settings": losses(cer),
        "With pre-training": pairs(wer, cer),
    }
    text = "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in tables.items()) + "\n"
    print(text)
    if options.output:
        write(
            options.output, text, {"tables": tables, "wer": wer, "cer": cer, "costs": asdict(costs)}, draw(wer, costs)
        )


def architecture(matrix: Matrix) -> ModelConfig:
    """The shape of the fine-tuned models, which all start from one folder."""
    from sewkit.checkpoint import load_model

    recipe = load_recipe(FinetuneRecipe, matrix.folder / matrix.experiments[0].recipe)
    assert recipe.init is not None
    return load_model(recipe.init).model.config


def write(folder: Path, text: str, facts: dict[str, Any], figure: Any) -> None:
    """Each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("stochastic.md", text), ("stochastic.json", json.dumps(facts, indent=1) + "\n")):
        with replacing(folder / name) as draft:
            draft.write_text(content, encoding="utf-8")
    for kind in ("png", "svg"):
        with replacing(folder / f"stochastic.{kind}") as draft:
            figure.savefig(draft, format=kind, dpi=150)


if __name__ == "__main__":
    main()

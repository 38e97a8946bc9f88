"""A matrix of experiments from one file, run cell by cell; each finished cell leaves one small JSON file.

    output: runs/heads                    # a folder for each cell's run
    results: runs/heads/results           # a JSON file for each finished cell
    seeds: [1, 2, 3]
    experiments:
      - name: encoder
        verb: pretrain
        recipe: pretrain-sew.yaml         # beside this file
        arms:
          linear: {contrastive.heads: linear}
          mlp: {contrastive.heads: mlp}
      - name: letters
        verb: finetune
        recipe: finetune-letters.yaml
        after: encoder                    # `init` is the encoder of each of its cells
        set: {stages.0.utterances: 500}
        test: [{name: readers, manifest: readers/manifest.jsonl, split: test}]

A cell is an experiment with one of its arms, one cell of the experiment that it comes after, and a seed: that cell's,
or each of its own `seeds`. An arm is a set of changes to the recipe, as after --set; its `recipe` takes another one.
A cell that has its JSON is done and skipped; one that was stopped goes on from its last state. With `grid: true` a
stochastic model is tested at all its operating points.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sewkit.checkpoint import load_model
from sewkit.collective import num_processes
from sewkit.compute import Compute
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.errors import UserError
from sewkit.evaluate.manifest import evaluate_classes
from sewkit.evaluate.wer import cer_with_interval, wer_with_interval
from sewkit.recognizer import Recognizer, load
from sewkit.train import distributed, finetune, pretrain
from sewkit.train.card import last_results
from sewkit.train.metrics import LOG_NAME, read_log
from sewkit.train.recipe import (
    DevSet,
    FinetuneRecipe,
    PretrainRecipe,
    RecipeError,
    RunRecipe,
    in_one_line,
    load_recipe,
    read_mapping,
    to_yaml,
)
from sewkit.train.rows import read_dev_path
from sewkit.version import __version__

ELSEWHERE = {"folder", "init", "data_root", "device", "threads"}
"""What of a recipe says where it runs, not what it computes."""

Name = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
"""Of an experiment or an arm; names of files are made of it."""


class Experiment(BaseModel):
    """Cells that differ in their arms, their seeds and what they come after."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name
    verb: Literal["pretrain", "finetune"]
    recipe: Path
    """Relative to the matrix's folder."""
    set: dict[str, Any] = {}
    """Changes to the recipe in every cell: {"schedule.learning_rate": 1e-3}."""
    arms: dict[Name | Literal[""], dict[str, Any]] = Field({"": {}}, min_length=1)
    after: str | None = None
    seeds: tuple[int, ...] = ()
    test: tuple[DevSet, ...] = ()
    """Evaluated once, when a cell is finished, beside the recipe's dev sets."""
    grid: bool = False
    """Evaluate the test sets, each and all together, at every operating point of the model."""


class Matrix(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Path()
    """Where the file lies; filled in when it is read."""
    output: Path
    """Folders of the runs; relative to the working directory, as is"""
    results: Path
    """the folder of the JSON files."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    experiments: tuple[Experiment, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Matrix:
        earlier: dict[str, Experiment] = {}
        for one in self.experiments:
            if one.name in earlier:
                raise ValueError(f"there are two experiments {one.name!r}")
            if one.after is not None and (
                one.after not in earlier or (earlier[one.after].verb, one.verb) == ("finetune", "pretrain")
            ):
                wanted = "pre-training" if one.verb == "pretrain" else "experiment"
                raise ValueError(f"{one.name}: after {one.after!r}, which is no {wanted} before it in the list")
            if one.test and one.verb == "pretrain":
                raise ValueError(f"{one.name}: test is for fine-tuned models; a pre-training measures its dev sets")
            earlier[one.name] = one
        names = [cell.name for cell in cells_of(self)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two cells are called {min(twice)}; rename an experiment or an arm")
        return self


@dataclass(frozen=True)
class Cell:
    """One run of the matrix."""

    experiment: Experiment
    arms: tuple[str, ...]
    """Of the experiments before, then its own; those without a name are left out."""
    seeds: tuple[int, ...]
    """Likewise, where an experiment has seeds of its own; the last one is the run's."""
    arm: str
    parent: Cell | None

    @property
    def name(self) -> str:
        """Also that of its folder and its JSON file."""
        return "-".join([self.experiment.name, *self.arms, "seed" + "-".join(map(str, self.seeds))])

    @property
    def row(self) -> str:
        """What cells have in common that differ in their seeds only."""
        return " ".join([self.experiment.name, *self.arms])


def load_matrix(path: Path) -> Matrix:
    """Read a matrix. Raises RecipeError."""
    try:
        return Matrix(**{"folder": path.parent, **read_mapping(path)})
    except ValidationError as error:
        raise RecipeError(f"{path}: {in_one_line(error)}") from error


def cells_of(matrix: Matrix) -> list[Cell]:
    """In the order in which they run."""
    cells: list[Cell] = []
    for one in matrix.experiments:
        parents: list[Cell | None] = [cell for cell in cells if cell.experiment.name == one.after]
        for parent in parents or [None]:
            before = parent.seeds if parent else ()
            own = one.seeds or (() if parent else matrix.seeds)
            for arm in one.arms:
                arms = (*(parent.arms if parent else ()), *([arm] if arm else []))
                cells += [Cell(one, arms, seeds, arm, parent) for seeds in ([(*before, s) for s in own] or [before])]
    return cells


def changed(matrix: Matrix, overrides: Iterable[str], output: Path | None = None) -> Matrix:
    """The matrix to try things out with: recipes changed by EXPERIMENT.KEY=VALUE, runs and results in another folder.

    Raises RecipeError for an experiment that there is not.
    """
    experiments = {one.name: one for one in matrix.experiments}
    for override in overrides:
        name, _, change = override.partition(".")
        key, equals, text = change.partition("=")
        if name not in experiments or not equals:
            raise RecipeError(
                f"--set {override}: expected EXPERIMENT.KEY=VALUE; the experiments are {', '.join(experiments)}"
            )
        one = experiments[name]
        experiments[name] = one.model_copy(update={"set": {**one.set, key: yaml.safe_load(text)}})
    folders = {"output": output, "results": output / "results"} if output else {}
    return matrix.model_copy(update={"experiments": tuple(experiments.values()), **folders})


def recipe_of(matrix: Matrix, cell: Cell) -> RunRecipe:
    """A cell's recipe with all its changes."""
    arm = dict(cell.experiment.arms[cell.arm])
    path = matrix.folder / arm.pop("recipe", cell.experiment.recipe)
    changes = {**cell.experiment.set, **arm, "seed": cell.seeds[-1]}
    if cell.parent is not None:
        changes |= {"model": None, "init": str(matrix.output / cell.parent.name / "model")}
    kind = PretrainRecipe if cell.experiment.verb == "pretrain" else FinetuneRecipe
    return load_recipe(kind, path, [f"{key}={json.dumps(value)}" for key, value in changes.items()])


def fingerprint(matrix: Matrix, cell: Cell) -> str:
    """A hash of what a result depends on beside code and data: recipe, test sets, and those of what it comes after."""
    recipe = recipe_of(matrix, cell)
    tests = [one.model_dump(mode="json") for one in cell.experiment.test]
    before = fingerprint(matrix, cell.parent) if cell.parent else str(recipe.init)
    parts = [recipe.model_dump(mode="json", exclude_unset=True, exclude=ELSEWHERE), tests, before]
    parts += ["grid"] if cell.experiment.grid else []
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def result_of(matrix: Matrix, cell: Cell) -> dict[str, Any] | None:
    """A cell's result, None if it has none yet. Raises UserError for one of other settings."""
    path = matrix.results / f"{cell.name}.json"
    if not path.exists():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    if result.get("fingerprint") != fingerprint(matrix, cell):
        raise UserError(f"{path}: is of other settings than the matrix now has; delete it, or rename the experiment")
    return dict(result)


def run_matrix(matrix: Matrix, hardware: dict[str, Any], say: Callable[[str], None], only: str = "*") -> dict[str, str]:
    """Run what is not done; {name: why} of the cells that failed, and of those that were to start from one of them.

    hardware: facts for the results. only: a pattern (`*`, `?`, `[]`) of names: processes that run different cells of
    one matrix can share it. Raises Stopped, with the running cell's state saved; UserError where no name fits.
    """
    cells = [cell for cell in cells_of(matrix) if fnmatchcase(cell.name, only)]
    if not cells:
        raise UserError(f"no cell of the matrix is called like {only!r}; see --dry-run for their names")
    results = {cell.name: result_of(matrix, cell) for cell in cells}
    failed: dict[str, str] = {}
    for number, cell in enumerate(cells, start=1):
        if results[cell.name] is not None:
            continue
        say(f"[{number}/{len(cells)}] {cell.name}, {time_left(cells[number - 1 :], results)} left")
        if cell.parent is not None and result_of(matrix, cell.parent) is None:
            why = "failed" if cell.parent.name in failed else "is not done"
            failed[cell.name] = f"starts from {cell.parent.name}, which {why}"
            continue
        try:
            results[cell.name] = run_cell(matrix, cell, hardware)
        except UserError as error:
            failed[cell.name] = str(error)
            say(f"[{number}/{len(cells)}] {cell.name} failed: {error}")
    return failed


def run_cell(matrix: Matrix, cell: Cell, hardware: dict[str, Any]) -> dict[str, Any]:
    """Train, evaluate, write the JSON file."""
    recipe, output = recipe_of(matrix, cell), matrix.output / cell.name
    keep_recipe(recipe, output)
    if isinstance(recipe, PretrainRecipe):
        pretrain.run(recipe, output, resume=True)
    else:
        assert isinstance(recipe, FinetuneRecipe)
        finetune.run(recipe, output, resume=True)
    result: dict[str, Any] = {}
    if distributed.is_first():
        result = {**describe(matrix, cell, recipe, output), "hardware": hardware}
        matrix.results.mkdir(parents=True, exist_ok=True)
        write_text(matrix.results / f"{cell.name}.json", json.dumps(result, indent=1) + "\n")
    if num_processes() > 1:
        torch.distributed.barrier()
    return result


def keep_recipe(recipe: RunRecipe, output: Path) -> None:
    """Write recipe.yaml into the run's folder. Raises UserError if the run there was started with another one."""
    path, text = output / "recipe.yaml", to_yaml(recipe)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path}: the run was started with this recipe, which the matrix has changed; delete {output}")
    if distributed.is_first():
        output.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """All of it or nothing."""
    draft = path.with_name(f".{path.name}.partial")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def describe(matrix: Matrix, cell: Cell, recipe: RunRecipe, output: Path) -> dict[str, Any]:
    """A finished cell's facts."""
    model = load_model(output / "model").model
    lines = [line for line in read_log(output / LOG_NAME) if "learning_rate" in line]
    return {
        "cell": cell.name,
        "experiment": cell.experiment.name,
        "row": cell.row,
        "seeds": list(cell.seeds),
        "verb": cell.experiment.verb,
        "recipe": str(cell.experiment.arms[cell.arm].get("recipe", cell.experiment.recipe)),
        "overrides": {**cell.experiment.set, **cell.experiment.arms[cell.arm]},
        "after": cell.parent.name if cell.parent else recipe.init and str(recipe.init),
        "fingerprint": fingerprint(matrix, cell),
        "parameters": model.num_parameters(),
        "updates": lines[-1]["step"] if lines else 0,
        "seconds": round(training_seconds(lines), 1),
        "trained": lines[-1] if lines else {},
        "measured": {result.metric: result.value for result in last_results(output)},
        "evaluated": evaluate(cell, recipe, output / "model"),
        **({"grid": evaluate_grid(cell, recipe, output / "model")} if cell.experiment.grid else {}),
        "sewkit": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def training_seconds(lines: list[dict[str, Any]]) -> float:
    """Of all updates, over all times that the run was resumed, measuring and saving not counted."""
    steps = [0, *(line["step"] for line in lines)]
    return sum(line["seconds_per_update"] * (line["step"] - before) for before, line in zip(steps, lines, strict=False))


def evaluate(cell: Cell, recipe: RunRecipe, folder: Path) -> dict[str, dict[str, Any]]:
    """{"dev" or test set: {"wer": rate with interval, "cer": ...} or {"accuracy": ..., "macro_f1": ...}}."""
    if cell.experiment.verb == "pretrain":
        return {}
    asr = load(str(folder), threads=recipe.threads)
    sets = {f"{one.name} {one.split}": one for one in (*recipe.dev, *cell.experiment.test)}
    return {name: evaluate_set(asr, recipe, one) for name, one in sets.items()}


def evaluate_grid(cell: Cell, recipe: RunRecipe, folder: Path) -> dict[str, dict[str, Any]]:
    """{operating point: {test set, or "all" of them together: {"wer": rate with interval, "cer": ...}}}."""
    asr = load(str(folder), threads=recipe.threads)
    sets = {f"{one.name} {one.split}": read_set(recipe, one) for one in cell.experiment.test}
    references = {name: [utterance.text for utterance in utterances] for name, utterances in sets.items()}
    grid: dict[str, dict[str, Any]] = {}
    for point in asr.compute_options:
        texts = {name: transcribed(asr, utterances, point) for name, utterances in sets.items()}
        rates = {name: error_rates(references[name], texts[name]) for name in sets}
        rates["all"] = error_rates([*chain(*references.values())], [*chain(*texts.values())])
        grid[str(point)] = rates
    return grid


def evaluate_set(asr: Recognizer, recipe: RunRecipe, one: DevSet) -> dict[str, Any]:
    """Rates with their intervals."""
    if asr.config.num_labels is not None:
        path, root = read_dev_path(recipe, one)
        confusion = evaluate_classes(asr, path, split=one.split, data_root=root).confusion
        return {"accuracy": asdict(confusion.accuracy), "macro_f1": confusion.macro_f1}
    utterances = read_set(recipe, one)
    return error_rates([utterance.text for utterance in utterances], transcribed(asr, utterances))


def read_set(recipe: RunRecipe, one: DevSet) -> list[Utterance]:
    """The utterances of a dev or test set."""
    path, root = read_dev_path(recipe, one)
    return read_manifest(path, one.split, root)


def transcribed(asr: Recognizer, utterances: Sequence[Utterance], point: Compute | None = None) -> list[str]:
    """What the model hears; None is the dearest point."""
    return [found.text for found in asr.transcribe_batch(map(load_utterance, utterances), compute=point)]


def error_rates(references: Sequence[str], texts: Sequence[str]) -> dict[str, Any]:
    """Words and characters, with their intervals."""
    rates = {"wer": wer_with_interval(references, texts), "cer": cer_with_interval(references, texts)}
    return {name: asdict(rate) for name, rate in rates.items()}


def time_left(cells: Iterable[Cell], results: dict[str, dict[str, Any] | None]) -> str:
    """Of cells that are not done, from the mean time of those of the same experiment; "unknown" where there is none."""
    total = 0.0
    for cell in cells:
        if results[cell.name] is None:
            done = [r["seconds"] for name, r in results.items() if r and r["experiment"] == cell.experiment.name]
            if not done:
                return "unknown time"
            total += sum(done) / len(done)
    return str(timedelta(seconds=round(total)))


# ---- the table -----------------------------------------------------------------------------------------------------

T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 95 % intervals, by degrees of freedom from 1 on; beyond, 2 is near enough."""


@dataclass(frozen=True)
class Mean:
    """Over seeds, with half the width of its 95 % interval (Student's t); None where there is one seed."""

    value: float
    half_width: float | None
    num_seeds: int

    def __str__(self) -> str:
        return f"{self.value:.4g}" + ("" if self.half_width is None else f" ± {self.half_width:.2g}")


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

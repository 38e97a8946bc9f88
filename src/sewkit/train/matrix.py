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
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sewkit.errors import UserError
from sewkit.train.recipe import (
    ELSEWHERE,
    DevSet,
    FinetuneRecipe,
    PretrainRecipe,
    RecipeError,
    RunRecipe,
    in_one_line,
    load_recipe,
    read_mapping,
)

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


def chosen(matrix: Matrix, only: str = "*") -> list[Cell]:
    """The cells with such names, a pattern (`*`, `?`, `[]`).

    Raises UserError where no name fits, RecipeError if the recipe of any cell is no good: hours before its turn.
    """
    cells = cells_of(matrix)
    for cell in cells:
        recipe_of(matrix, cell)
    found = [cell for cell in cells if fnmatchcase(cell.name, only)]
    if not found:
        names = ", ".join(cell.name for cell in cells)
        raise UserError(f"no cell of the matrix is called like {only!r}; there are {names}")
    return found


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
    """A cell's recipe with all its changes. Raises RecipeError, which names the cell."""
    changes = {**cell.experiment.set, **cell.experiment.arms[cell.arm]}
    path = matrix.folder / changes.pop("recipe", cell.experiment.recipe)
    if "seed" in changes:
        raise RecipeError(f"{cell.name}: seed: is each of the matrix's or the experiment's `seeds`; change those")
    changes["seed"] = cell.seeds[-1]
    if cell.parent is not None:
        changes |= {"model": None, "init": str(matrix.output / cell.parent.name / "model")}
    kind = PretrainRecipe if cell.experiment.verb == "pretrain" else FinetuneRecipe
    try:
        return load_recipe(kind, path, [f"{key}={json.dumps(value)}" for key, value in changes.items()])
    except RecipeError as error:
        raise RecipeError(f"{cell.name}: {error}") from error


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

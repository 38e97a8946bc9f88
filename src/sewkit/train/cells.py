"""Running the cells of a matrix: train, evaluate, leave what was found as one JSON file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from sewkit.checkpoint import load_model
from sewkit.collective import num_processes
from sewkit.compute import Compute
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.errors import UserError
from sewkit.evaluate.manifest import evaluate_classes
from sewkit.evaluate.wer import cer_with_interval, wer_with_interval
from sewkit.files import write_whole
from sewkit.recognizer import Recognizer, load
from sewkit.train import distributed, finetune, pretrain
from sewkit.train.card import last_results
from sewkit.train.loop import precision_on
from sewkit.train.matrix import Cell, Matrix, chosen, fingerprint, recipe_of, result_of
from sewkit.train.metrics import LOG_NAME, read_log
from sewkit.train.recipe import DevSet, FinetuneRecipe, PretrainRecipe, RunRecipe
from sewkit.train.rows import read_dev_path
from sewkit.version import __version__


def run_matrix(matrix: Matrix, hardware: dict[str, Any], say: Callable[[str], None], only: str = "*") -> dict[str, str]:
    """Run what is not done; {name: why} of the cells that failed, and of those that were to start from one of them.

    hardware: facts for the results. only: see `chosen`: processes that run different cells of one matrix can share it.
    Raises Stopped, with the running cell's state saved; UserError, before anything runs, where no name fits or a recipe
    is no good.
    """
    cells = chosen(matrix, only)
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
    if isinstance(recipe, PretrainRecipe):
        pretrain.run(recipe, output, resume=True)
    else:
        assert isinstance(recipe, FinetuneRecipe)
        finetune.run(recipe, output, resume=True)
    result: dict[str, Any] = {}
    if distributed.is_first():
        result = {**describe(matrix, cell, recipe, output), "hardware": hardware}
        write_whole(matrix.results / f"{cell.name}.json", json.dumps(result, indent=1) + "\n")
    if num_processes() > 1:
        torch.distributed.barrier()
    return result


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
        "precision": precision_on(distributed.choose_device(recipe.device), recipe.precision),
        "parameters": model.num_parameters(),
        "updates": lines[-1]["step"] if lines else 0,
        "seconds": float(f"{training_seconds(lines):.4g}"),
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

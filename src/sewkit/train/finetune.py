"""Fine-tuning from a recipe: builds model, data and stages, and hands them to the loop.

For letters (CTC) and for classes (speaker, intent, emotion, ...). Also trains small models from random weights: a stage
of log-mel regression starts the extractor, a curriculum of single words and strings follows.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sewkit.checkpoint import load_model, save_model
from sewkit.checkpoint.loaded import LoadedModel
from sewkit.data.augment import Augmenter, read_noises
from sewkit.data.batch import Batch
from sewkit.data.manifest import ManifestError
from sewkit.data.strings import ClipSource, Source, StringBatches, load_source
from sewkit.data.utterances import UtteranceBatches
from sewkit.data.validate import Requirements
from sewkit.data.validate import validate as validate_rows
from sewkit.model import SpeechModel, build_model
from sewkit.objectives.classification import Classify
from sewkit.objectives.ctc import CTC
from sewkit.objectives.flat_start import FlatStart
from sewkit.objectives.logmel import LogMel
from sewkit.objectives.loss import Objective
from sewkit.text import Alphabet
from sewkit.train import distributed
from sewkit.train.begun import lasting
from sewkit.train.loop import Settings, Stage, precision_on, train
from sewkit.train.plan import Plan, make_plan
from sewkit.train.points import DrawnPoints, config_for, model_for
from sewkit.train.recipe import FinetuneRecipe, RecipeError, RunRecipe, StageRecipe
from sewkit.train.rows import read_rows
from sewkit.train.standardized import fold_head, standardize_head
from sewkit.train.state import TrainState
from sewkit.train.summary import hours_of, summarize
from sewkit.train.validation import Validation

logger = logging.getLogger(__name__)

MEASURED_UPDATES = 8
"""Updates over whose batches a classification head's input is measured before the first."""


def run(recipe: FinetuneRecipe, output: Path, resume: bool = False, stop_after: int | None = None) -> TrainState:
    """Train, write log and states into `output`, and the finished model into `output/model`."""
    task, stages, settings = prepare(recipe, output, stop_after)
    if task.labels is not None:
        measured = (batch for update in range(MEASURED_UPDATES) for batch in stages[0].batches(update))
        standardize_head(task.model, measured, settings.device)
    state = train(stages, settings, resume)
    if state.stage == len(stages) and distributed.is_first():
        save_final(task, state, output / "model", recipe.save_as)
        summarize(recipe, task.model, output)
    return state


def plan(recipe: FinetuneRecipe, output: Path) -> Plan:
    """What the run will be; trains nothing, writes nothing."""
    _, stages, settings = prepare(recipe, output)
    return make_plan(stages, settings, hours_of(recipe))


def prepare(
    recipe: FinetuneRecipe, output: Path, stop_after: int | None = None
) -> tuple[LoadedModel, list[Stage], Settings]:
    """The model with what its outputs mean, and all that `train` needs."""
    device = start_process(recipe)
    task = start_model(recipe)
    return task, build_stages(recipe, task, device), loop_settings(recipe, output, device, stop_after)


def start_process(recipe: RunRecipe) -> torch.device:
    """Join the other processes, take a device and threads, seed what is drawn from now on: new weights."""
    device = distributed.choose_device(recipe.device)
    distributed.start(device)
    if precision_on(device, recipe.precision) != recipe.precision:
        logger.warning("this processor has no bfloat16 products: training in fp32, where the recipe says bf16")
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    return device


def loop_settings(recipe: RunRecipe, output: Path, device: torch.device, stop_after: int | None) -> Settings:
    """What of a recipe the loop needs to know."""
    return Settings(
        output=output,
        recipe=lasting(recipe),
        device=device,
        precision=precision_on(device, recipe.precision),
        seed=recipe.seed,
        betas=recipe.betas,
        eps=recipe.adam_eps,
        weight_decay=recipe.weight_decay,
        decay_all=recipe.decay_all,
        clip_norm=recipe.clip_norm,
        average_decay=recipe.average_decay,
        compile=recipe.compile,
        checkpoint_activations=recipe.checkpoint_activations,
        log_every=recipe.log_every,
        validate_every=recipe.validate_every,
        checkpoint_seconds=recipe.checkpoint_seconds,
        keep_checkpoints=recipe.keep_checkpoints,
        stop_after=stop_after,
    )


def start_model(recipe: FinetuneRecipe) -> LoadedModel:
    """A new model, or the one to start from; with a new head where it has none for this task."""
    source = None
    if recipe.init is not None:
        source = load_model(recipe.init)
        source = replace(source, model=model_for(recipe, source.model))
    if recipe.label_column is not None:
        labels = tuple(sorted(set(read_labels(recipe))))
        task = LoadedModel(
            build_head(recipe, source, num_labels=len(labels)), labels=labels, label_column=recipe.label_column
        )
    else:
        alphabet = (source.alphabet if source is not None else None) or Alphabet.english()
        task = LoadedModel(build_head(recipe, source, vocab_size=len(alphabet)), alphabet)
    if source is not None:
        same_head = (source.alphabet, source.labels) == (task.alphabet, task.labels)
        take_weights(task.model, source.model, same_head)
    return task


def build_head(recipe: FinetuneRecipe, source: LoadedModel | None, **head: int) -> SpeechModel:
    """The recipe's model with a head, all of it random."""
    if source is not None:
        config = source.model.config
    else:
        assert recipe.model is not None
        config = config_for(recipe, recipe.model)
    dropout = recipe.dropout or config.dropout
    return build_model(config.replace(**{"vocab_size": None, "num_labels": None, "dropout": dropout, **head}))


def take_weights(model: SpeechModel, source: SpeechModel, with_head: bool) -> None:
    """Everything of `source` but, unless `with_head`, the head."""
    kept = {name: value for name, value in source.state_dict().items() if with_head or not name.startswith("head.")}
    missing = model.load_state_dict(kept, strict=False).missing_keys
    assert all(name.startswith("head.") for name in missing), missing


def save_final(task: LoadedModel, state: TrainState, folder: Path, save_as: str = "fp32") -> None:
    """The averaged weights if there are any, as a model folder."""
    if state.average:
        task.model.load_state_dict(state.average)
    fold_head(task.model)
    dtype = torch.float16 if save_as == "fp16" else torch.float32
    save_model(folder, task.model.cpu().eval(), task.alphabet, task.labels, label_column=task.label_column, dtype=dtype)


def build_stages(recipe: FinetuneRecipe, task: LoadedModel, device: torch.device) -> list[Stage]:
    """The recipe's stages with their data."""
    noises, rooms = read_noises(recipe.data_root / recipe.noise) if recipe.noise else ([], [])
    sources: list[ClipSource] = []
    if any(stage.strings for stage in recipe.stages):
        sources = [load_source(source, recipe.data_root) for source in recipe.train if source.weight]
        if not sources:
            raise RecipeError("strings: no source of train has a weight above 0, whose words they would be of")
    validate = Validation(recipe, task, device) if recipe.dev else None
    stages = []
    for number, stage in enumerate(recipe.stages):
        augmenter = Augmenter(stage.augmentation, noises, rooms)
        seed = recipe.seed * 1_000 + number
        batches = stage_batches(recipe, stage, sources, augmenter, task, seed)
        objective = build_objective(stage, task)
        stages.append(
            Stage(
                name=stage.name,
                num_updates=stage.num_updates,
                schedule=stage.schedule,
                batches=DrawnPoints(
                    batches, task.model.config, seed, recipe.draw_per_layer, one_per_update=bool(stage.strings)
                ),
                objective=objective,
                trainable=partial(trainable, objective, stage),
                validate=None if stage.objective == "log_mel" else validate,
            )
        )
    return stages


def build_objective(stage: StageRecipe, task: LoadedModel) -> Objective:
    """The loss of a stage."""
    if stage.objective == "log_mel":
        return LogMel(task.model)
    if stage.objective == "classify":
        return Classify(task.model, stage.masking)
    assert task.alphabet is not None
    if stage.objective == "flat_start":
        return FlatStart(task.model, task.alphabet, stage.masking)
    return CTC(task.model, task.alphabet.blank, stage.masking, stage.intermediate_weight)


def trainable(objective: Objective, stage: StageRecipe, update: int) -> list[nn.Parameter]:
    """What moves at an update."""
    model = objective.model
    if isinstance(objective, LogMel):
        return [*model.features.parameters(), *objective.head.parameters()]
    if update < stage.freeze_updates:
        assert model.head is not None
        return list(model.head.parameters())
    fixed = set() if stage.train_extractor else {id(parameter) for parameter in model.features.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in fixed]


# ---- data ----------------------------------------------------------------------------------------------------------


def stage_batches(
    recipe: FinetuneRecipe,
    stage: StageRecipe,
    sources: list[ClipSource],
    augmenter: Augmenter,
    task: LoadedModel,
    seed: int,
) -> Callable[[int], list[Batch]]:
    """Whole utterances, random strings of words, or both beside each other; the processes share the micro-batches."""
    if not stage.strings:
        return utterance_batches(recipe, recipe.train, stage.batch_seconds, augmenter, task, seed)
    rank, world = distributed.rank_and_world()
    if recipe.micro_batches % world:
        raise RecipeError(f"micro_batches: {recipe.micro_batches} cannot be shared by {world} processes")
    assert task.alphabet is not None
    strings = StringBatches(
        sources, list(stage.strings), augmenter, task.alphabet, seed, recipe.micro_batches, rank, world
    )
    if not stage.beside_seconds:
        return strings
    whole = [source for source in recipe.train if not source.weight]
    if not whole:
        raise RecipeError("beside_seconds: no source of train has weight 0, whose utterances they would be")
    return Beside(strings, utterance_batches(recipe, whole, stage.beside_seconds, augmenter, task, seed))


def utterance_batches(
    recipe: FinetuneRecipe,
    sources: Sequence[Source],
    batch_seconds: float,
    augmenter: Augmenter,
    task: LoadedModel,
    seed: int,
) -> UtteranceBatches:
    """Whole utterances; those that cannot be trained on are named once and left out."""
    rank, world = distributed.rank_and_world()
    rows = read_rows(recipe, sources)
    needs = Requirements.of_model(task.model.config, task.alphabet, max_seconds=recipe.max_seconds)
    kept, report = validate_rows(rows, needs)
    if not len(kept):
        first = next(iter(report.examples.values()))[0]
        raise ManifestError(f"none of the {len(rows)} rows of the recipe can be trained on, the first: {first}")
    if report.counts and rank == 0:
        logger.warning("%s", report)
    classes = None
    if task.labels is not None:
        ids = {label: number for number, label in enumerate(task.labels)}
        classes = np.array([ids[label] for label in read_labels(recipe)])[kept]
    return UtteranceBatches(
        rows.select(kept),
        batch_seconds,
        augmenter,
        task.alphabet,
        seed,
        device_seconds=recipe.device_seconds,
        rank=rank,
        world=world,
        classes=classes,
    )


class Beside:
    """Callable: update -> the micro-batches of both, such as strings of words and read sentences."""

    def __init__(self, first: Callable[[int], list[Batch]], second: Callable[[int], list[Batch]]) -> None:
        self.first = first
        self.second = second

    def __call__(self, update: int) -> list[Batch]:
        """The same for the same (seed, update)."""
        return self.first(update) + self.second(update)


def read_labels(recipe: FinetuneRecipe) -> list[str]:
    """The class of every training row. Raises ManifestError for a row without one."""
    assert recipe.label_column is not None
    rows = read_rows(recipe)
    values = rows.column(recipe.label_column)
    for number, value in enumerate(values):
        if value in (None, ""):
            raise ManifestError(f"{rows[number].name}: nothing in column {recipe.label_column!r}")
    return [str(value) for value in values]

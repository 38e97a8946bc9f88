"""Self-supervised pre-training from a recipe (wav2vec 2.0 section 3, SEW section 4): no labels are needed."""

from dataclasses import replace
from pathlib import Path

import torch

from sewkit.checkpoint import load_model, save_model
from sewkit.checkpoint.pretraining import save_heads
from sewkit.compute import Compute
from sewkit.config import Masking, ModelConfig
from sewkit.data.batch import Batch
from sewkit.data.crops import CropBatches
from sewkit.data.manifest import Manifest
from sewkit.lengths import num_frames
from sewkit.model import SpeechModel, build_model
from sewkit.objectives.contrastive import Contrastive, with_heads
from sewkit.objectives.logmel import LogMel
from sewkit.objectives.loss import Objective
from sewkit.objectives.masking import draw_masks, equal_masks
from sewkit.objectives.random import RowRandom
from sewkit.train import distributed
from sewkit.train.finetune import loop_settings, start_process
from sewkit.train.loop import Settings, Stage, autocast, precision_on, train
from sewkit.train.plan import Plan, make_plan
from sewkit.train.points import DrawnPoints, config_for, model_for, points_to_measure
from sewkit.train.recipe import DevSet, LogMelStart, PretrainRecipe
from sewkit.train.rows import read_dev_path, read_rows
from sewkit.train.state import TrainState
from sewkit.train.summary import hours_of, summarize


def run(recipe: PretrainRecipe, output: Path, resume: bool = False, stop_after: int | None = None) -> TrainState:
    """Pre-train, write log and states into `output`, and the encoder with its heads into `output/model`."""
    stages, settings = prepare(recipe, output, stop_after)
    state = train(stages, settings, resume)
    if state.stage == len(stages) and distributed.is_first():
        objective = stages[-1].objective
        save_final(objective, state, output / "model")
        summarize(recipe, objective.model, output)
    return state


def plan(recipe: PretrainRecipe, output: Path) -> Plan:
    """What the run will be; trains nothing, writes nothing."""
    stages, settings = prepare(recipe, output)
    return make_plan(stages, settings, hours_of(recipe))


def prepare(recipe: PretrainRecipe, output: Path, stop_after: int | None = None) -> tuple[list[Stage], Settings]:
    """All that `train` needs."""
    device = start_process(recipe)
    objective = start_objective(recipe)
    start = [] if recipe.log_mel is None else [log_mel_stage(recipe, recipe.log_mel, objective.model)]
    return [*start, build_stage(recipe, objective, device)], loop_settings(recipe, output, device, stop_after)


def start_objective(recipe: PretrainRecipe) -> Contrastive:
    """A new model with new heads; or the one to go on from, with its own heads unless the recipe wants new ones."""
    model = start_encoder(recipe)
    if recipe.init is None or recipe.new_heads:
        return Contrastive(model, recipe.contrastive)
    changes = {name: getattr(recipe.contrastive, name) for name in recipe.contrastive.model_fields_set}
    return with_heads(model, recipe.init, **changes)


def start_encoder(recipe: PretrainRecipe) -> SpeechModel:
    """The recipe's model without a head, its dropout and masking as the recipe wants them."""
    source = None
    if recipe.init is not None:
        source = model_for(recipe, load_model(recipe.init).model)
        config = source.config
    else:
        assert recipe.model is not None
        config = config_for(recipe, recipe.model)
    model = build_model(
        config.replace(
            vocab_size=None,
            num_labels=None,
            dropout=recipe.dropout or config.dropout,
            masking=recipe.masking or config.masking,
        )
    )
    if source is not None:
        model.load_state_dict({k: v for k, v in source.state_dict().items() if not k.startswith("head.")})
    return model


def save_final(objective: Objective, state: TrainState, folder: Path) -> None:
    """The bare encoder as a folder to fine-tune from, its heads beside it; of both the average, if there is one."""
    assert isinstance(objective, Contrastive)
    objective.cpu().eval()
    objective.model.load_state_dict(state.average or state.model)
    save_model(folder, objective.model)
    heads = replace(objective.heads(), tensors=state.average_heads or state.heads)
    save_heads(folder, heads)


def log_mel_stage(recipe: PretrainRecipe, start: LogMelStart, model: SpeechModel) -> Stage:
    """The start of an extractor; nothing else moves."""
    objective = LogMel(model)
    moving = [*model.features.parameters(), *objective.head.parameters()]
    return Stage(
        name="log-mel",
        num_updates=start.updates,
        schedule=start.schedule,
        batches=crop_batches(recipe, start.batch_seconds),
        objective=objective,
        trainable=lambda update: moving,
    )


def crop_batches(recipe: PretrainRecipe, batch_seconds: float) -> CropBatches:
    """Of the recipe's audio, this process's share."""
    rank, world = distributed.rank_and_world()
    return CropBatches(
        read_rows(recipe),
        batch_seconds,
        recipe.seed,
        device_seconds=recipe.device_seconds,
        rank=rank,
        world=world,
        min_seconds=recipe.crop.min_seconds,
        max_seconds=recipe.crop.max_seconds,
    )


def build_stage(recipe: PretrainRecipe, objective: Contrastive, device: torch.device) -> Stage:
    """The stage of the papers."""
    crops = crop_batches(recipe, recipe.batch_seconds)
    validations = {dev.name: Validation(recipe, dev, objective, device) for dev in recipe.dev}
    points = points_to_measure(recipe, objective.model.config)

    def validate() -> dict[str, float]:
        return {
            f"{metric}_{name}{suffix}": value
            for suffix, point in points.items()
            for name, run in validations.items()
            for metric, value in run(point).items()
        }

    return Stage(
        name="pretraining",
        num_updates=recipe.updates,
        schedule=recipe.schedule,
        batches=DrawnPoints(
            MaskedCrops(crops, objective.model.config), objective.model.config, recipe.seed, recipe.draw_per_layer
        ),
        objective=objective,
        trainable=lambda update: list(objective.parameters()),
        validate=validate if validations else None,
        num_entries=objective.settings.groups * objective.settings.entries,
    )


class MaskedCrops:
    """Callable: update -> crops with their time masks, equally many masked frames in all rows of a group.

    The whole group is masked on every process, which costs little, so that no process has to ask the others.
    """

    def __init__(self, crops: CropBatches, config: ModelConfig) -> None:
        self.crops = crops
        self.config = config

    def __call__(self, update: int) -> list[Batch]:
        """The same for the same (seed, update)."""
        return [mask_group(batch, self.config.masking, self.config) for batch in self.crops(update)]


def mask_group(batch: Batch, masking: Masking, config: ModelConfig) -> Batch:
    """Draw the masks of the group that a batch of crops belongs to, keep those of its own rows."""
    assert batch.group_seeds is not None
    assert batch.group_rows is not None
    size = num_frames(batch.waveforms.shape[1], config.conv_layers)
    lengths = torch.full((len(batch.group_seeds),), size)
    random = RowRandom(batch.group_seeds)
    masks = draw_masks(masking.model_copy(update={"channel_prob": 0.0}), lengths, size, config.hidden_size, random)
    assert masks.time is not None, "masking.time_prob is above 0 in pre-training"
    return replace(batch, time_mask=equal_masks(masks.time, random)[batch.group_rows])


class Validation:
    """Callable: the objective's metrics on held-out crops, always the same ones with the same masks and negatives."""

    def __init__(self, recipe: PretrainRecipe, dev: DevSet, objective: Contrastive, device: torch.device) -> None:
        path, root = read_dev_path(recipe, dev)
        rows = Manifest.open(path, dev.split, root, labelled=False)
        crops = CropBatches(
            rows,
            recipe.device_seconds,
            seed=0,
            min_seconds=recipe.crop.min_seconds,
            max_seconds=recipe.crop.max_seconds,
        )
        self.batches = MaskedCrops(crops, objective.model.config)
        self.num_updates = crops.updates_per_epoch
        self.objective = objective
        self.device = device
        self.precision = precision_on(device, recipe.precision)

    def __call__(self, point: Compute | None = None) -> dict[str, float]:
        """Means over masked frames; None is the dearest point."""
        sums: dict[str, float] = {}
        count = 0
        for update in range(self.num_updates):
            for batch in self.batches(update):
                batch = replace(batch, compute=point)
                with autocast(self.device, self.precision):
                    loss = self.objective(batch.to(self.device), update)
                for name, value in loss.metrics.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * loss.count
                count += loss.count
        wanted = ("accuracy", "contrastive", "code_perplexity")
        return {name: sums[name] / max(count, 1) for name in wanted if name in sums}

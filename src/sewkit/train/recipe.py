"""A recipe: the YAML file that says what is trained on what. Unknown keys are errors.

A recipe may be the difference from another one: `extends: base.yaml`, a path beside it, is read first, and what the
recipe says is laid over it, mapping by mapping. A list is replaced as a whole; a mapping with numbers for keys changes
elements of it (`stages: {0: {freeze_updates: 0}}`).

Paths of data are relative to `data_root`, which is relative to the working directory; lists that a recipe brings along
(`dev`) are relative to the recipe's own folder.
"""

from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sewkit.compute import Compute
from sewkit.config import PUBLISHED, Dropout, Masking, ModelConfig, Stochastic
from sewkit.data.augment import Augmentation
from sewkit.data.strings import Source, Strings
from sewkit.errors import UserError
from sewkit.objectives.contrastive import ContrastiveSettings
from sewkit.train.schedule import Schedule

ALL_POINTS = "all"
"""What a recipe's `compute` says to train a stochastic model at all its operating points."""

ELSEWHERE = {"folder", "init", "data_root", "device", "threads"}
"""What of a recipe says where it runs, not what it computes."""


class RecipeError(UserError):
    """A recipe that cannot be used; the message names file and key."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DevSet(_Part):
    """Utterances to measure during training; choices are made on them, never on test sets."""

    name: str
    manifest: Path
    split: str = "dev"
    beside_recipe: bool = False
    """The manifest lies in the recipe's folder, not below `data_root`; its recordings are below `data_root` still."""


class StageRecipe(_Part):
    """One stage; its examples are random `strings` of words, or the `utterances` of the sources as they are."""

    name: str
    objective: Literal["log_mel", "flat_start", "ctc", "classify"]
    schedule: Schedule
    strings: tuple[Strings, ...] = ()
    """Phases of a curriculum."""
    utterances: int = 0
    """Updates on whole utterances, instead of strings."""
    batch_seconds: float = Field(100.0, gt=0)
    """For utterances: padded seconds of an update, on all processes together."""
    beside_seconds: float = Field(0.0, ge=0)
    """For strings: padded seconds of whole utterances, of the sources of weight 0, that an update holds beside them."""
    augmentation: Augmentation = Augmentation()
    masking: Masking | None = None
    """Time and channel masks; None for none."""
    intermediate_weight: float = Field(0.0, ge=0, lt=1)
    """Share of the middle layer in the CTC loss (intermediate CTC); helps models that start from random weights."""
    freeze_updates: int = 0
    """First updates in which only the head moves."""
    train_extractor: bool = True
    """False as in the published fine-tuning: the convolutions stay as they are."""

    @model_validator(mode="after")
    def _one_kind_of_example(self) -> "StageRecipe":
        if bool(self.strings) == bool(self.utterances):
            raise ValueError("give either strings (a list of phases) or utterances (a number of updates)")
        if self.beside_seconds and not (self.strings and self.objective == "ctc"):
            raise ValueError("beside_seconds is for ctc on strings")
        if self.objective == "log_mel" and not self.train_extractor:
            raise ValueError("log_mel trains the extractor: train_extractor must be true")
        if self.objective == "flat_start" and not self.strings:
            raise ValueError("flat_start needs strings: only there it is known where each word lies")
        return self

    @property
    def num_updates(self) -> int:
        """Updates of the stage."""
        return self.utterances or sum(phase.updates for phase in self.strings)


class RunRecipe(_Part):
    """What fine-tuning and pre-training recipes share."""

    folder: Path = Path()
    """Where the recipe lies; filled in when it is read."""
    seed: int = 0
    data_root: Path = Path("data")
    model: ModelConfig | None = None
    """A new model with random weights: its sizes, or a published name (`model: sew-tiny`), or both (`model: {published:
    sew-tiny, num_layers: 6}`); or"""
    init: Path | None = None
    """the model to start from: a folder, an original .pt file, a hub id."""
    dropout: Dropout | None = None
    """In place of the one that the model of `init` was saved with."""
    stochastic: Stochastic | None = None
    """Make the fixed model of `init` stochastic, with these squeeze factors and pools; `{}` for the usual ones. A new
    model says them itself."""
    compute: str = ALL_POINTS
    """all: every micro-batch of a stochastic model at a point drawn for it. A point, such as squeeze=3: the model is
    fixed to it, trained and saved as that."""
    draw_per_layer: bool = False
    """Draw pools for each layer, instead of one for all."""
    train: tuple[Source, ...] = Field(min_length=1)
    dev: tuple[DevSet, ...] = ()
    device: str = "auto"
    """auto: each process its GPU if the machine has them, else the CPU."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, about half the time; weights and losses stay fp32. A processor without it
    trains in fp32 all the same, and says so."""
    threads: int | None = None
    compile: bool = False
    """torch.compile of the encoder's layers."""
    checkpoint_activations: bool = False
    """Compute layers again in the backward pass instead of keeping their results: less memory, a third more time."""
    device_seconds: float = Field(100.0, gt=0)
    """Most seconds of sound, padding included, in one micro-batch on one device; an update adds up several."""
    betas: tuple[float, float] = (0.9, 0.98)
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False
    """Weight decay on biases and norms too, as fairseq has it; otherwise on matrices only."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 for no clipping."""
    average_decay: float = Field(0.0, ge=0, lt=1)
    """Of the exponential moving average of the weights, which is then measured and saved; 0 for none."""
    log_every: int = Field(50, ge=1)
    validate_every: int = Field(500, ge=1)
    validate_at: tuple[str, ...] = ()
    """Operating points, such as squeeze=4, at which a stochastic model is measured too, beside its dearest."""
    checkpoint_seconds: float = 120.0
    keep_checkpoints: int = Field(2, ge=1)

    @field_validator("model", mode="before")
    @classmethod
    def _published(cls, value: Any) -> Any:
        """A published size by name, and what differs from it."""
        named = {"published": value} if isinstance(value, str) else value
        if not isinstance(named, dict) or "published" not in named:
            return value
        changes = dict(named)
        name = changes.pop("published")
        if name not in PUBLISHED:
            raise ValueError(f"no published size {name!r}; there are {', '.join(PUBLISHED)}")
        return PUBLISHED[name].replace(**changes)

    @model_validator(mode="after")
    def _one_start(self) -> "RunRecipe":
        if (self.model is None) == (self.init is None):
            raise ValueError("give either model (a new one) or init (a model to start from)")
        if self.stochastic is not None and self.init is None:
            raise ValueError("stochastic is for the model of init: a new one has its squeeze_factors under model")
        for point in (*self.validate_at, *([] if self.compute == ALL_POINTS else [self.compute])):
            Compute.parse(point)
        return self


class FinetuneRecipe(RunRecipe):
    """Everything a fine-tuning run depends on."""

    noise: Path | None = None
    """Manifest of noises and impulse responses."""
    stages: tuple[StageRecipe, ...] = Field(min_length=1)
    max_seconds: float = Field(30.0, gt=0)
    """Longer utterances are left out of fine-tuning."""
    label_column: str | None = None
    """For `classify`: the column of the manifests that names the class, such as speaker or intent."""
    save_as: Literal["fp32", "fp16"] = "fp32"
    """Of the finished model's weights."""
    micro_batches: int = Field(1, ge=1)
    """For stages on strings: batches whose gradients make one update; torchrun's processes share them."""

    @model_validator(mode="after")
    def _labels_or_letters(self) -> "FinetuneRecipe":
        classifies = [stage.objective == "classify" for stage in self.stages]
        if any(classifies) and not all(classifies):
            raise ValueError("a model has one head: either every stage is classify or none")
        if any(classifies) != (self.label_column is not None):
            raise ValueError("classify needs label_column, the column that names the class; other objectives have none")
        return self


class Crop(_Part):
    """What of an utterance pre-training sees (wav2vec 2.0 section 4.2)."""

    max_seconds: float = 15.625
    min_seconds: float = 2.0
    """Shorter utterances are left out."""


class LogMelStart(_Part):
    """Updates in which a new extractor learns to predict log-mel energies, see `objectives/logmel.py`."""

    updates: int = Field(gt=0)
    schedule: Schedule
    batch_seconds: float = Field(gt=0)


class PretrainRecipe(RunRecipe):
    """Everything a pre-training run depends on."""

    log_mel: LogMelStart | None = None
    """Before the contrastive updates, where these are few. The papers have none."""
    updates: int = Field(gt=0)
    schedule: Schedule
    batch_seconds: float = Field(5600.0, gt=0)
    """Of an update, on all processes together."""
    crop: Crop = Crop()
    contrastive: ContrastiveSettings = ContrastiveSettings()
    """Of new heads; going on with the heads of `init`, what is given here replaces their settings."""
    new_heads: bool = False
    """Start with new heads though `init` may have some."""
    masking: Masking | None = None
    """In place of the model's own."""

    @model_validator(mode="after")
    def _new_extractor(self) -> "PretrainRecipe":
        if self.log_mel is not None and self.init is not None:
            raise ValueError("log_mel is a start for new models: leave it out with init")
        return self


RecipeKind = TypeVar("RecipeKind", bound=RunRecipe)


def load_recipe(kind: type[RecipeKind], path: Path, overrides: list[str] | tuple[str, ...] = ()) -> RecipeKind:
    """Read a recipe of a kind; `overrides` are like `data_root=/data` or `stages.1.schedule.learning_rate=1e-3`."""
    values = _read(path)
    for override in overrides:
        _apply(values, override)
    try:
        return kind(**{"folder": path.parent, **values})
    except ValidationError as error:
        raise RecipeError(f"{path}: {in_one_line(error)}") from error


def to_yaml(recipe: RunRecipe) -> str:
    """What a recipe says, all that it extends and all overrides included, as one file that needs no other."""
    values = recipe.model_dump(mode="json", exclude_unset=True, exclude={"folder"})
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=120)


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises RecipeError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise RecipeError(f"{path}: cannot be read ({reason})") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected keys and values")
    return values


def _read(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's values, laid over those of the one that it extends."""
    if any(path.resolve() == other.resolve() for other in extended_by):
        raise RecipeError(f"{path}: extends itself, by way of {', '.join(map(str, extended_by))}")
    values = read_mapping(path)
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise RecipeError(f"{path}: extends: expected the path of one recipe, found {base!r}")
    try:
        return _laid_over(_read(path.parent / base, (*extended_by, path)), values)
    except IndexError as error:
        raise RecipeError(f"{path}: changes element {error} of a list of {base} that is shorter") from error


def _laid_over(below: Any, above: Any) -> Any:
    """`above`, and of mappings in it what `below` says beside. Raises IndexError where `below` lacks an element."""
    if not isinstance(above, dict):
        return above
    if isinstance(below, list) and above and all(isinstance(key, int) for key in above):
        if missing := above.keys() - range(len(below)):
            raise IndexError(min(missing))
        return [_laid_over(item, above.get(number, item)) for number, item in enumerate(below)]
    beside = below if isinstance(below, dict) else {}
    return {**beside, **{key: _laid_over(beside.get(key), value) for key, value in above.items()}}


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one value by its dotted path."""
    name, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: expected KEY=VALUE")
    place: Any = values
    *parents, last = (int(key) if key.isdigit() else key for key in name.split("."))
    try:
        for key in parents:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        place[last] = _number_or_yaml(text)
    except (IndexError, TypeError, AttributeError) as error:
        raise RecipeError(f"--set {override}: the recipe has no {name}") from error


def _number_or_yaml(text: str) -> Any:
    """YAML, but 1e-3 is a number (YAML 1.1 wants 1.0e-3)."""
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


def in_one_line(error: ValidationError) -> str:
    """Where and what, for a message."""
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'recipe'}: "
        + ("no such field" if item["type"] == "extra_forbidden" else item["msg"])
        for item in error.errors()
    )

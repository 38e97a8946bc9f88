"""CTC fine-tuning from a recipe: builds model, data and stages, and hands them to the loop.

Also trains small models from random weights: a stage of log-mel regression starts the extractor, a curriculum of single
words and strings follows.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sewkit import lengths
from sewkit.audio import SAMPLE_RATE
from sewkit.checkpoint import load_model, save_model
from sewkit.data.augment import Augmenter, read_noises
from sewkit.data.batch import Batch, make_batch
from sewkit.data.manifest import ManifestError, Utterance, load_utterance, read_manifest
from sewkit.data.strings import ClipSource, StringBatches, load_source
from sewkit.data.utterances import UtteranceBatches
from sewkit.evaluate.wer import word_errors
from sewkit.model import SpeechModel, build_model
from sewkit.objectives.ctc import ctc_loss, needed_frames
from sewkit.objectives.flat_start import flat_start_loss
from sewkit.objectives.logmel import NUM_BANDS, log_mel_loss
from sewkit.objectives.masking import draw_masks
from sewkit.text import Alphabet
from sewkit.train import distributed
from sewkit.train.loop import Settings, Stage, train
from sewkit.train.recipe import Recipe, StageRecipe, load_recipe
from sewkit.train.state import TrainState

__all__ = ["load_recipe", "run"]

VALIDATION_SECONDS = 60.0


def run(recipe: Recipe, output: Path, resume: bool = False, stop_after: int | None = None) -> TrainState:
    """Train, write `log.jsonl` and `state.pt` into `output`, and the finished model into `output/model`."""
    distributed.start()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    model, alphabet = start_model(recipe)
    settings = Settings(
        output=output,
        seed=recipe.seed,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        micro_batches=recipe.micro_batches,
        average_decay=recipe.average_decay,
        log_every=recipe.log_every,
        validate_every=recipe.validate_every,
        checkpoint_seconds=recipe.checkpoint_seconds,
        stop_after=stop_after,
    )
    state = train(model, build_stages(recipe, model, alphabet), settings, resume)
    if state.stage == len(recipe.stages) and distributed.is_first():
        save_final(model, alphabet, state, output / "model", recipe.save_as)
    return state


def start_model(recipe: Recipe) -> tuple[SpeechModel, Alphabet]:
    """A new model, or the one to start from; with a new head of English letters where it has none for letters."""
    if recipe.model is not None:
        alphabet = Alphabet.english()
        return build_model(recipe.model.replace(vocab_size=len(alphabet))), alphabet
    assert recipe.init is not None
    loaded = load_model(recipe.init)
    alphabet = loaded.alphabet or Alphabet.english()
    config = loaded.model.config.replace(vocab_size=len(alphabet), num_labels=None)
    model = build_model(config.replace(dropout=recipe.dropout) if recipe.dropout else config)
    kept = loaded.model.state_dict()
    if loaded.alphabet is None:
        kept = {name: value for name, value in kept.items() if not name.startswith("head.")}
    missing = model.load_state_dict(kept, strict=False).missing_keys
    assert all(name.startswith("head.") for name in missing), missing
    return model, alphabet


def save_final(model: SpeechModel, alphabet: Alphabet, state: TrainState, folder: Path, save_as: str = "fp32") -> None:
    """The averaged weights if there are any, as a model folder."""
    if state.average:
        model.load_state_dict(state.average)
    save_model(folder, model.eval(), alphabet, dtype=torch.float16 if save_as == "fp16" else torch.float32)


def build_stages(recipe: Recipe, model: SpeechModel, alphabet: Alphabet) -> list[Stage]:
    """The recipe's stages with their data."""
    noises, rooms = read_noises(recipe.data_root / recipe.noise) if recipe.noise else ([], [])
    sources: list[ClipSource] = []
    if any(stage.strings for stage in recipe.stages):
        sources = [load_source(source, recipe.data_root) for source in recipe.train]
    validate = partial(measure, model, read_dev_sets(recipe), alphabet, recipe.precision) if recipe.dev else None
    stages = []
    for number, stage in enumerate(recipe.stages):
        augmenter = Augmenter(stage.augmentation, noises, rooms)
        seed = recipe.seed * 1_000 + number
        batches: Callable[[int], Batch]
        if stage.strings:
            batches = StringBatches(sources, list(stage.strings), augmenter, alphabet, seed, recipe.micro_batches)
        else:
            rows = usable(read_utterances(recipe), alphabet, model)
            batches = UtteranceBatches(rows, stage.batch_seconds, augmenter, alphabet, seed)
        stages.append(build_stage(recipe, stage, model, alphabet, batches, seed, validate))
    return stages


def build_stage(
    recipe: Recipe,
    stage: StageRecipe,
    model: SpeechModel,
    alphabet: Alphabet,
    batches: Callable[[int], Batch],
    seed: int,
    validate: Callable[[], dict[str, float]] | None,
) -> Stage:
    """One stage for the loop."""
    extra: nn.Linear | None = None
    loss: Callable[[Batch, int], tuple[Tensor, dict[str, float]]]
    loss = partial(letters_loss, model, stage, alphabet, recipe.precision, seed)
    if stage.objective == "log_mel":
        extra = nn.Linear(model.config.feature_size, NUM_BANDS)
        loss = partial(log_mel, model, extra, recipe.precision)
        validate = None
    return Stage(
        name=stage.name,
        num_updates=stage.num_updates,
        schedule=stage.schedule,
        batches=batches,
        loss=loss,
        trainable=partial(trainable, model, stage),
        extra=extra,
        validate=validate,
    )


def trainable(model: SpeechModel, stage: StageRecipe, update: int) -> list[nn.Parameter]:
    """What moves at an update."""
    if stage.objective == "log_mel":
        return list(model.features.parameters())
    if update < stage.freeze_updates:
        assert model.head is not None
        return list(model.head.parameters())
    fixed = set() if stage.train_extractor else {id(parameter) for parameter in model.features.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in fixed]


def letters_loss(
    model: SpeechModel, stage: StageRecipe, alphabet: Alphabet, precision: str, seed: int, batch: Batch, update: int
) -> tuple[Tensor, dict[str, float]]:
    """CTC or the flat start, with masks drawn from (seed, update)."""
    masks = None
    if stage.masking is not None:
        config = model.config
        generator = torch.Generator().manual_seed(seed * 10_000_000 + update)
        frame_lengths = lengths.num_frames(batch.sample_lengths, config.conv_layers)
        num_frames = lengths.num_frames(batch.waveforms.shape[1], config.conv_layers)
        masks = draw_masks(stage.masking, frame_lengths, num_frames, config.hidden_size, generator)
    with autocast(precision):
        if stage.objective == "flat_start":
            return flat_start_loss(model, batch, alphabet, masks)
        return ctc_loss(model, batch, masks, alphabet.blank, stage.intermediate_weight)


def log_mel(
    model: SpeechModel, head: nn.Linear, precision: str, batch: Batch, update: int
) -> tuple[Tensor, dict[str, float]]:
    """Log-mel regression; nothing is drawn, so the update plays no part."""
    del update
    with autocast(precision):
        return log_mel_loss(model.features, head, batch)


def autocast(precision: str) -> AbstractContextManager[Any]:
    """bf16 where the recipe wants it."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()


def read_utterances(recipe: Recipe) -> list[Utterance]:
    """The training rows of all sources."""
    rows: list[Utterance] = []
    for source in recipe.train:
        found = read_manifest(recipe.data_root / source.manifest, split=source.split)
        rows += [row for row in found if not source.intents or row.extra.get("intent") in source.intents]
    return rows


def usable(rows: list[Utterance], alphabet: Alphabet, model: SpeechModel) -> list[Utterance]:
    """Rows whose text the alphabet can write and whose sound is long enough for it; the others are named, once."""
    kept: list[Utterance] = []
    too_short: list[Utterance] = []
    for row in rows:
        try:
            labels = torch.tensor(alphabet.encode(row.text), dtype=torch.int64)
        except ValueError as error:
            raise ManifestError(f"{row.parts[0].audio}: {error}; change the text or leave the row out") from error
        frames = lengths.num_frames(round(row.duration * SAMPLE_RATE), model.config.conv_layers)
        needed = int(needed_frames(labels, torch.tensor([labels.numel()])))
        (kept if frames >= needed else too_short).append(row)
    if too_short:
        first = too_short[0]
        warnings.warn(
            f"{len(too_short)} of {len(rows)} utterances are too short for their text and are left out, "
            f"such as {first.parts[0].audio} ({first.duration} s for {first.text!r})",
            stacklevel=2,
        )
    return kept


def read_dev_sets(recipe: Recipe) -> dict[str, list[tuple[np.ndarray, str]]]:
    """name -> (waveform, text) of every utterance, longest first."""
    sets = {}
    for dev in recipe.dev:
        path = (recipe.folder if dev.beside_recipe else recipe.data_root) / dev.manifest
        root = recipe.data_root if dev.beside_recipe else None
        rows = sorted(read_manifest(path, split=dev.split, root=root), key=lambda row: -row.duration)
        sets[dev.name] = [(load_utterance(row), row.text) for row in rows]
    return sets


def measure(
    model: SpeechModel, sets: dict[str, list[tuple[np.ndarray, str]]], alphabet: Alphabet, precision: str
) -> dict[str, float]:
    """Word error rate of greedy decoding on each dev set: {"wer_NAME": rate}."""
    rates = {}
    for name, items in sets.items():
        counts = word_errors(
            [text for _, text in items], transcribe(model, [wave for wave, _ in items], alphabet, precision)
        )
        rates[f"wer_{name}"] = sum(c.errors for c in counts) / max(sum(c.num_words for c in counts), 1)
    return rates


def transcribe(model: SpeechModel, waveforms: list[np.ndarray], alphabet: Alphabet, precision: str) -> list[str]:
    """Greedy texts of waveforms sorted by length, longest first."""
    texts: list[str] = []
    while len(texts) < len(waveforms):
        longest = waveforms[len(texts)].size / SAMPLE_RATE
        count = max(1, int(VALIDATION_SECONDS / longest))
        part = waveforms[len(texts) : len(texts) + count]
        batch = make_batch(part, [""] * len(part), alphabet)
        with autocast(precision):
            logits, frame_lengths = model(batch.waveforms, batch.sample_lengths)
        best = logits.argmax(dim=-1)
        texts += [
            alphabet.collapse(row[:length].tolist()) for row, length in zip(best, frame_lengths.tolist(), strict=True)
        ]
    return texts

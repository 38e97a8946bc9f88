"""One optimiser step of pre-training: sewkit's beside transformers', and where the time of sewkit's goes.

Both have the same weights, crops, dropout and batch, and each makes its own masks and negatives within the step:
transformers' as its collator for pre-training does. LayerDrop is off, so that every step has the same work.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.timing import interleaved, ratio, summary
from sewkit.checkpoint import save_model
from sewkit.config import PUBLISHED, ModelConfig
from sewkit.data.batch import make_batch
from sewkit.errors import MissingExtraError
from sewkit.model import build_model
from sewkit.objectives.contrastive import Contrastive, ContrastiveSettings, load_contrastive
from sewkit.testing import synthetic_speech
from sewkit.train.loop import Precision, autocast, train
from sewkit.train.optimizer import build_optimizer, scale_and_clip
from sewkit.train.pretrain import mask_group, prepare
from sewkit.train.recipe import PretrainRecipe

BASE, TINY = "w2v2-base", "sew-tiny"
LEARNING_RATE, BETAS, EPS, WEIGHT_DECAY = 5e-4, (0.9, 0.98), 1e-6, 0.01


def compare_steps(
    rows: int, seconds: float, runs: int, device: torch.device, precision: Precision, peer: bool = True
) -> dict[str, Any]:
    """Seconds of a step on `rows` crops of one length: transformers' W2V2-base, ours, and our SEW-tiny, in turn."""
    crops = [synthetic_speech(int(seconds * SAMPLE_RATE), seed) for seed in range(rows)]
    steps: dict[str, Callable[[], None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if peer:
            steps[f"transformers {BASE}"] = TheirStep(crops, Path(folder), device, precision)
            objective = load_contrastive(folder)
        else:
            objective = Contrastive(build_model(config_of(BASE)), ContrastiveSettings(heads="linear"))
    steps[f"sewkit {BASE}"] = OurStep(objective, crops, device, precision)
    tiny = Contrastive(build_model(config_of(TINY)), ContrastiveSettings())
    steps[f"sewkit {TINY}"] = OurStep(tiny, crops, device, precision)
    times = interleaved({name: synchronized(step, device) for name, step in steps.items()}, runs)
    ours = times[f"sewkit {BASE}"]
    return {
        "rows": rows,
        "crop_seconds": seconds,
        "runs": runs,
        "precision": precision,
        "seconds": {name: summary(values) for name, values in times.items()},
        "w2v2_base_against_transformers": ratio(times[f"transformers {BASE}"], ours) if peer else None,
        "sew_tiny_against_w2v2_base": ratio(ours, times[f"sewkit {TINY}"]),
    }


def config_of(name: str) -> ModelConfig:
    """A published size without LayerDrop."""
    config = PUBLISHED[name]
    return config.replace(dropout=config.dropout.model_copy(update={"layerdrop": 0.0}))


def synchronized(step: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """The step, and the wait for a GPU to be through with it."""

    def run() -> None:
        step()
        synchronize(device)

    return run


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class OurStep:
    """Callable: one step as the training loop takes it, from waveforms to new weights."""

    def __init__(
        self, objective: Contrastive, crops: Sequence[np.ndarray], device: torch.device, precision: Precision
    ) -> None:
        self.objective = objective.to(device).train()
        self.crops = list(crops)
        self.device = device
        self.precision = precision
        self.parameters = list(objective.parameters())
        self.optimizer = build_optimizer(self.parameters, BETAS, EPS, WEIGHT_DECAY, decay_all=True)
        self.update = 0

    def __call__(self) -> None:
        """With new masks."""
        places = np.arange(len(self.crops))
        seeds = self.update * len(self.crops) + places
        batch = make_batch(self.crops, [""] * len(self.crops), None, seeds=seeds)
        batch = replace(batch, group_seeds=torch.from_numpy(seeds), group_rows=torch.from_numpy(places))
        config = self.objective.model.config
        batch = mask_group(batch, config.masking, config).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            loss = self.objective(batch, self.update)
        loss.total.backward()
        scale_and_clip(self.parameters, torch.tensor(float(loss.count), device=self.device), 0.0)
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        self.optimizer.step()
        self.update += 1


class TheirStep:
    """Callable: one step of transformers' Wav2Vec2ForPreTraining, from waveforms to new weights.

    The model is W2V2-base with random weights; it is also saved to `folder`, for ours to start from.
    """

    def __init__(self, crops: Sequence[np.ndarray], folder: Path, device: torch.device, precision: Precision) -> None:
        try:
            from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForPreTraining
            from transformers.utils import logging
        except ImportError:
            raise MissingExtraError("the comparison with transformers", "dev") from None
        logging.disable_progress_bar()
        torch.manual_seed(0)
        save_model(folder, build_model(config_of(BASE)))
        config = Wav2Vec2Config.from_pretrained(folder, feat_quantizer_dropout=0.1)
        self.model: Any = Wav2Vec2ForPreTraining(config).train()
        self.model.save_pretrained(folder)
        self.model.to(device)
        self.extractor: Any = Wav2Vec2FeatureExtractor()
        self.crops = list(crops)
        self.device = device
        self.precision = precision
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(
            parameters, lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=WEIGHT_DECAY
        )

    def __call__(self) -> None:
        """With new masks."""
        batch = {name: value.to(self.device) for name, value in self.collate().items()}
        with autocast(self.device, self.precision):
            loss = self.model(**batch).loss
        loss.backward()
        count = batch["mask_time_indices"].sum()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= count
        self.optimizer.step()
        self.optimizer.zero_grad()

    def collate(self) -> dict[str, Tensor]:
        """Waveforms, masks and negatives, made with transformers' own functions."""
        from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

        values = self.extractor.pad([{"input_values": crop} for crop in self.crops], return_tensors="pt")
        config = self.model.config
        frames = int(self.model._get_feat_extract_output_lengths(values["input_values"].shape[1]))
        shape = (len(self.crops), frames)
        masks = _compute_mask_indices(shape, config.mask_time_prob, config.mask_time_length, min_masks=2)
        negatives = _sample_negative_indices(shape, config.num_negatives, masks)
        return {
            "input_values": values["input_values"],
            "mask_time_indices": torch.from_numpy(masks).long(),
            "sampled_negative_indices": torch.from_numpy(negatives).long(),
        }


# ---- where the time goes -------------------------------------------------------------------------------------------

OUTSIDE = "waiting for data, logging"
DRAWS = "negatives and noise"


def break_down(
    name: str, rows: int, seconds: float, updates: int, device: torch.device, precision: Precision
) -> dict[str, Any]:
    """Seconds of an update by stage, forward and backward together, in the training loop itself, with audio on disk.

    `outside_share`: of the time, what is neither model nor loss nor optimiser.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_recordings(Path(folder), 4 * rows, seconds)
        recipe = PretrainRecipe.model_validate(
            {
                "data_root": folder,
                "model": config_of(name),
                "train": [{"manifest": "manifest.jsonl"}],
                "updates": updates + 1,
                "schedule": {"kind": "constant", "learning_rate": LEARNING_RATE},
                "batch_seconds": rows * seconds * 1.1,  # groups leave some room
                "device_seconds": rows * seconds * 1.1,
                "crop": {"min_seconds": seconds, "max_seconds": seconds},
                "contrastive": {"heads": "linear" if name == BASE else "mlp"},
                "device": device.type,
                "precision": precision,
                "decay_all": True,
                "log_every": 10,
            }
        )
        (stage,), settings = prepare(recipe, Path(folder) / "run")
        assert isinstance(stage.objective, Contrastive)
        with watched(stage.objective, Clock(settings.device)) as clock:
            train([stage], settings)
    total = sum(clock.seconds.values())
    outside = clock.seconds[OUTSIDE] + clock.seconds[DRAWS]
    return {
        "model": name,
        "seconds": {stage: value / updates for stage, value in clock.seconds.items()},
        "outside_share": outside / total,
    }


def write_recordings(folder: Path, count: int, seconds: float) -> None:
    """A manifest of recordings of one length."""
    lines = []
    for number in range(count):
        soundfile.write(folder / f"{number}.flac", synthetic_speech(int(seconds * SAMPLE_RATE), number), SAMPLE_RATE)
        lines.append(f'{{"audio": "{number}.flac", "duration": {seconds}, "split": "train"}}\n')
    (folder / "manifest.jsonl").write_text("".join(lines))


class Clock:
    """Adds up the time since the last lap under the name of what has just ended; starts after the first update."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.last: float | None = None

    def lap(self, name: str) -> None:
        """What ran since the last lap was this."""
        synchronize(self.device)
        now = time.perf_counter()
        if self.last is not None:
            self.seconds[name] += now - self.last
            self.last = now

    def start(self) -> None:
        """Once: laps count from here on."""
        synchronize(self.device)
        self.last = self.last or time.perf_counter()


@contextmanager
def watched(objective: Contrastive, clock: Clock) -> Iterator[Clock]:
    """Laps at the borders between the stages of an update, forward and backward.

    A gradient's hook runs when all that comes after that tensor is through with its backward pass.
    """
    extract, contextualize = objective.extract, objective.model.contextualize

    def watched_extract(*arguments: Any) -> Any:
        clock.lap(OUTSIDE)
        features, lengths = extract(*arguments)
        clock.lap("extractor")
        features.register_hook(lambda _: clock.lap("encoder"))
        return features, lengths

    def watched_contextualize(*arguments: Any) -> Any:
        clock.lap(DRAWS)
        encoded = contextualize(*arguments)
        clock.lap("encoder")
        encoded.frames.register_hook(lambda _: clock.lap("quantiser, heads, loss"))
        return encoded

    def end_of_step(*_: Any) -> None:
        clock.lap("optimiser")
        clock.start()

    first = objective.model.features.blocks[0].conv
    assert isinstance(first, nn.Conv1d)
    hooks = [
        first.weight.register_post_accumulate_grad_hook(lambda _: clock.lap("extractor")),
        register_optimizer_step_pre_hook(lambda *_: clock.lap("optimiser")),
        register_optimizer_step_post_hook(end_of_step),
    ]
    vars(objective)["extract"], vars(objective.model)["contextualize"] = watched_extract, watched_contextualize
    try:
        yield clock
    finally:
        del vars(objective)["extract"], vars(objective.model)["contextualize"]
        for hook in hooks:
            hook.remove()

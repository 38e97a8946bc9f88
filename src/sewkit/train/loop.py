"""The training loop, in the order of events: draw, forward, backward, clip, step, average, log, validate, save.

Nothing here knows the objective: a `Stage` hands in batches and a loss. An update is the mean of `micro_batches`
gradients, shared out among the processes of `torchrun` if there are several: two processes of one thread each are much
faster on two cores than one process of two threads. Batches, masks and dropout are functions of (seed, stage,
micro-batch), so the result does not depend on the number of processes but for rounding, and a run killed at any moment
resumes from its last checkpoint to the weights it would have reached.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sewkit.data.batch import Batch
from sewkit.errors import UserError
from sewkit.train import distributed
from sewkit.train.progress import Progress
from sewkit.train.schedule import Schedule
from sewkit.train.state import TrainState, load_state, save_state

MAX_CONSECUTIVE_SKIPS = 20
PREFETCH = 3


class DivergedError(UserError):
    """The loss stays infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run."""

    name: str
    num_updates: int
    schedule: Schedule
    batches: Callable[[int], Batch]
    """Number of the micro-batch -> Batch."""
    loss: Callable[[Batch, int], tuple[Tensor, dict[str, float]]]
    """(batch, number of the micro-batch) -> (loss, metrics); draws its masks from the number."""
    trainable: Callable[[int], list[nn.Parameter]]
    """The parameters that move at an update; the list for update `num_updates - 1` must hold all others."""
    extra: nn.Module | None = None
    """A head of this stage only."""
    validate: Callable[[], dict[str, float]] | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything else the loop needs."""

    output: Path
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    micro_batches: int = 1
    average_decay: float = 0.0
    log_every: int = 50
    validate_every: int = 500
    checkpoint_seconds: float = 120.0
    stop_after: int | None = None
    """Stop after this many updates of this call, for tests of resuming."""


@dataclass
class Meters:
    """Means since the last log line."""

    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    started: float = field(default_factory=time.monotonic)

    def add(self, metrics: dict[str, float]) -> None:
        """One update's metrics."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take(self) -> dict[str, float]:
        """Means and seconds per update; starts anew."""
        means = {name: value / max(self.count, 1) for name, value in self.sums.items()}
        means["seconds_per_update"] = (time.monotonic() - self.started) / max(self.count, 1)
        self.__init__()  # type: ignore[misc]
        return means


def train(model: nn.Module, stages: list[Stage], settings: Settings, resume: bool = False) -> TrainState:
    """Run the stages; the returned state holds the last weights and their average."""
    settings.output.mkdir(parents=True, exist_ok=True)
    state = _start(model, settings, resume)
    with Progress(sum(stage.num_updates for stage in stages), hidden=not distributed.is_first()) as progress:
        progress.skip(sum(stage.num_updates for stage in stages[: state.stage]) + state.update)
        for number in range(state.stage, len(stages)):
            if not run_stage(model, stages[number], number, state, settings, progress):
                break
    return state


def run_stage(
    model: nn.Module, stage: Stage, number: int, state: TrainState, settings: Settings, progress: Progress
) -> bool:
    """One stage from `state.update` on; False if it stopped early."""
    optimizer = _optimizer(model, stage, settings)
    _restore(optimizer, stage, number, state)
    first, last = state.update, stage.num_updates
    if settings.stop_after is not None:
        last = min(last, first + settings.stop_after)
    meters, saved, skips = Meters(), time.monotonic(), 0
    model.train()
    for update, batches in prefetch(stage.batches, first, last, settings.micro_batches):
        moving = _let_move(model, stage, update)
        learning_rate = _set_learning_rate(optimizer, stage.schedule.at(update, stage.num_updates))
        metrics = _backward(stage, batches, number, settings, optimizer)
        metrics["loss"] = distributed.sum_gradients(moving, metrics["loss"])
        metrics["grad_norm"] = float(nn.utils.clip_grad_norm_(moving, settings.clip_norm))
        if math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"]):
            optimizer.step()
            _average(state, model, settings.average_decay)
            meters.add(metrics)
            skips = 0
        else:
            skips = _skip(state, skips, stage, update)
        done = state.update = update + 1
        progress.advance(metrics["loss"])
        if done % settings.log_every == 0:
            _log(settings, progress, stage, done, {"learning_rate": learning_rate, **meters.take()}, state.skipped)
        if _is_due(done, settings.validate_every, stage):
            _log(settings, progress, stage, done, validate(model, state, stage.validate))
        if time.monotonic() - saved > settings.checkpoint_seconds:
            _save(model, optimizer, stage, state, settings)
            saved = time.monotonic()
    if last < stage.num_updates:
        _save(model, optimizer, stage, state, settings)
        return False
    state.stage, state.update, state.optimizer, state.extra = number + 1, 0, {}, {}
    _save(model, None, stage, state, settings)
    return settings.stop_after is None


def _is_due(done: int, every: int, stage: Stage) -> bool:
    """Whether this process measures now: at regular updates and at the end of the stage."""
    return bool(stage.validate and distributed.is_first() and (done % every == 0 or done == stage.num_updates))


def prefetch(
    batches: Callable[[int], Batch], first: int, last: int, micro_batches: int
) -> Iterator[tuple[int, list[tuple[int, Batch]]]]:
    """(update, this process's [(number, batch)]) for first <= update < last, the next made by a thread meanwhile."""
    rank, world = distributed.rank_and_world()

    def draw(update: int) -> list[tuple[int, Batch]]:
        numbers = range(update * micro_batches + rank, (update + 1) * micro_batches, world)
        return [(number, batches(number)) for number in numbers]

    with ThreadPoolExecutor(1) as executor:
        waiting: deque[tuple[int, Future[list[tuple[int, Batch]]]]] = deque()
        for update in range(first, last):
            waiting.append((update, executor.submit(draw, update)))
            if len(waiting) > PREFETCH:
                ready, future = waiting.popleft()
                yield ready, future.result()
        while waiting:
            ready, future = waiting.popleft()
            yield ready, future.result()


def _backward(
    stage: Stage,
    batches: list[tuple[int, Batch]],
    number: int,
    settings: Settings,
    optimizer: torch.optim.Optimizer,
) -> dict[str, float]:
    """This process's share of the gradient; the loss among the metrics is its share too."""
    optimizer.zero_grad(set_to_none=True)
    means: dict[str, float] = {"loss": 0.0}
    for index, batch in batches:
        torch.manual_seed(_seed_of(settings.seed, number, index))
        loss, metrics = stage.loss(batch, index)
        (loss / settings.micro_batches).backward()
        for name, value in metrics.items():
            share = settings.micro_batches if name == "loss" else len(batches)
            means[name] = means.get(name, 0.0) + value / share
    return means


def validate(model: nn.Module, state: TrainState, measure: Callable[[], dict[str, float]] | None) -> dict[str, float]:
    """Measure the averaged weights if there are any, and put the others back."""
    assert measure is not None
    current = {name: value.clone() for name, value in model.state_dict().items()}
    if state.average:
        model.load_state_dict(state.average)
    model.eval()
    with torch.no_grad():
        metrics = measure()
    model.load_state_dict(current)
    model.train()
    return metrics


def _start(model: nn.Module, settings: Settings, resume: bool) -> TrainState:
    path = settings.output / "state.pt"
    if not resume:
        if path.exists():
            raise UserError(f"{path} exists: go on with --resume, or choose another output folder")
        return TrainState()
    if not path.exists():
        return TrainState()
    state = load_state(path)
    model.load_state_dict(state.model)
    return state


def _optimizer(model: nn.Module, stage: Stage, settings: Settings) -> torch.optim.AdamW:
    """Weight decay on matrices only."""
    wanted = {id(parameter) for parameter in stage.trainable(stage.num_updates - 1)}
    modules = [model] if stage.extra is None else [model, stage.extra]
    parameters = [p for module in modules for p in module.parameters() if id(p) in wanted or module is stage.extra]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=1e-8, fused=True)


def _restore(optimizer: torch.optim.Optimizer, stage: Stage, number: int, state: TrainState) -> None:
    if state.stage != number:
        state.stage, state.update = number, 0
    if state.optimizer:
        optimizer.load_state_dict(state.optimizer)
    if stage.extra is not None and state.extra:
        stage.extra.load_state_dict(state.extra)


def _seed_of(seed: int, stage: int, update: int) -> int:
    """One number for (seed, stage, update)."""
    return (seed * 1_000 + stage) * 10_000_000 + update


def _set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    return learning_rate


def _let_move(model: nn.Module, stage: Stage, update: int) -> list[nn.Parameter]:
    """What moves at this update; the rest needs no gradient, which saves its backward pass."""
    moving = stage.trainable(update)
    wanted = {id(parameter) for parameter in moving}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    return moving if stage.extra is None else [*moving, *stage.extra.parameters()]


def _skip(state: TrainState, skips: int, stage: Stage, update: int) -> int:
    state.skipped += 1
    if skips + 1 >= MAX_CONSECUTIVE_SKIPS:
        raise DivergedError(
            f"stage {stage.name}, update {update}: the loss was not finite {skips + 1} times in a row; "
            "lower the learning rate or raise the warm-up, and start again from an earlier state"
        )
    return skips + 1


@torch.no_grad()
def _average(state: TrainState, model: nn.Module, decay: float) -> None:
    """Move the average towards the weights; faster at first, so that it does not remember the random ones."""
    if not decay or not distributed.is_first():
        return
    weights = model.state_dict()
    if not state.average:
        state.average = {name: value.clone() for name, value in weights.items()}
    state.num_averaged += 1
    decay = min(decay, (1 + state.num_averaged) / (10 + state.num_averaged))
    for name, value in state.average.items():
        value.lerp_(weights[name], 1 - decay)


def _log(
    settings: Settings, progress: Progress, stage: Stage, update: int, values: dict[str, Any], skipped: int = 0
) -> None:
    if not distributed.is_first():
        return
    rounded = {name: float(f"{value:.5g}") for name, value in values.items()}
    line = {"stage": stage.name, "update": update, **rounded, **({"skipped": skipped} if skipped else {})}
    with (settings.output / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    progress.report(line)


def _save(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, stage: Stage, state: TrainState, settings: Settings
) -> None:
    if not distributed.is_first():
        return
    state.model = model.state_dict()
    if optimizer is not None:
        state.optimizer = optimizer.state_dict()
        state.extra = stage.extra.state_dict() if stage.extra is not None else {}
    save_state(state, settings.output / "state.pt")

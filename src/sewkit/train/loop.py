"""The training loop, in the order of events: draw, forward, backward, sum, clip, step, average, log, validate, save.

Nothing here knows the objective: a `Stage` hands in batches and an objective, a module whose forward gives a `Loss`.
The gradient of an update is that of the sum of its micro-batches' losses over the sum of their counts, on all
processes. Batches, masks and dropout are functions of (seed, stage, update), so the result does not depend on the
number of processes but for rounding (dropout excepted), and a run killed at any moment resumes from its last
checkpoint to the weights it would have reached.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sewkit.collective import sum_over_processes
from sewkit.data.batch import Batch
from sewkit.errors import UserError
from sewkit.files import make_folder
from sewkit.model import SpeechModel
from sewkit.objectives.loss import Loss, Objective
from sewkit.processor import multiplies
from sewkit.train import distributed
from sewkit.train.alarms import Alarms
from sewkit.train.begun import check_same
from sewkit.train.metrics import Log, Meters
from sewkit.train.optimizer import build_optimizer, move_average, scale_and_clip
from sewkit.train.progress import Progress
from sewkit.train.schedule import Schedule
from sewkit.train.signals import Stopped, StopRequest
from sewkit.train.state import Checkpoints, TrainState

logger = logging.getLogger(__name__)

MAX_CONSECUTIVE_SKIPS = 20

CPU = torch.device("cpu")
Precision = Literal["fp32", "bf16"]


class DivergedError(UserError):
    """The loss stays infinite or not a number."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run."""

    name: str
    num_updates: int
    schedule: Schedule
    batches: Callable[[int], list[Batch]]
    """Update -> the micro-batches of this process, as many on every process. Called by a thread."""
    objective: Objective
    trainable: Callable[[int], list[nn.Parameter]]
    """The parameters that move at an update; the list for update `num_updates - 1` must hold all others."""
    validate: Callable[[], dict[str, float]] | None = None
    """Measures model and objective, which hold the averaged weights meanwhile; called in the first process only."""
    num_entries: int | None = None
    """Code words of the quantiser, all groups together, where there is one: an alarm needs to know."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything else the loop needs."""

    output: Path
    recipe: dict[str, Any] = field(default_factory=dict)
    """What a run that is resumed must have been begun with, see `begun`."""
    device: torch.device = CPU
    precision: Precision = "fp32"
    seed: int = 0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = False
    """Weight decay on norms and biases too, as fairseq has it; otherwise on matrices only."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 for no clipping."""
    average_decay: float = 0.0
    compile: bool = False
    """torch.compile of each layer of the encoder."""
    checkpoint_activations: bool = False
    """Compute layers again in the backward pass instead of keeping what they computed."""
    log_every: int = 50
    validate_every: int = 500
    checkpoint_seconds: float = 120.0
    keep_checkpoints: int = 2
    prefetch: int = 3
    """Updates whose batches are made ahead, by a thread."""
    stop_after: int | None = None
    """Stop after this many updates of this call, for tests of resuming."""


@dataclass(frozen=True)
class _Run:
    """What lasts from the first stage to the last."""

    settings: Settings
    state: TrainState
    checkpoints: Checkpoints
    log: Log
    stop: StopRequest


def train(stages: list[Stage], settings: Settings, resume: bool = False) -> TrainState:
    """Run the stages; the returned state holds the last weights and, in the first process, their average.

    Raises Stopped after SIGTERM or Ctrl-C (the state is saved), DivergedError if the loss stays infinite, UserError if
    the folder holds another run, or one that was begun with another recipe.
    """
    make_folder(settings.output)
    checkpoints = Checkpoints(settings.output, settings.keep_checkpoints)
    state = start_state(stages[0].objective.model, checkpoints, settings, resume)
    prepare_encoder(stages[0].objective.model, settings)
    if state.stage == len(stages) and distributed.is_first():
        logger.warning("%s: the run is finished, there is nothing left to train", settings.output)
    total = sum(stage.num_updates for stage in stages)
    done = sum(stage.num_updates for stage in stages[: state.stage]) + state.update
    with (
        Progress(total, done, hidden=not distributed.is_first()) as progress,
        Log(settings.output, progress) as log,
        StopRequest() as stop,
    ):
        run = _Run(settings, state, checkpoints, log, stop)
        while state.stage < len(stages):
            progress.begin_stage()
            if not run_stage(stages[state.stage], run):
                break
    return state


def run_stage(stage: Stage, run: _Run) -> bool:
    """One stage from the state's update on; False if `stop_after` ended it early."""
    settings, state, log = run.settings, run.state, run.log
    updates = _Updates(stage, run)
    objective, meters, alarms = updates.objective, updates.meters, Alarms(stage.num_entries)
    saved, last = time.monotonic(), stage.num_updates
    if settings.stop_after is not None:
        last = min(last, state.update + settings.stop_after)
    with closing(prefetch(stage.batches, state.update, last, settings.prefetch)) as drawn:
        for update, batches in meters.waiting(drawn):
            loss, is_asked_to_stop = updates.take(update, batches)
            log.advance(loss)
            if state.update % settings.log_every == 0 or state.update == stage.num_updates:
                values = {"learning_rate": stage.schedule.at(update, stage.num_updates), **meters.take()}
                log.write(stage.name, state.update, values, alarms.check(values))
            if _is_due(state.update, settings.validate_every, stage):
                with meters.apart():
                    values = validate(objective, state, stage.validate)
                log.write(stage.name, state.update, values, alarms.check(values))
            if is_asked_to_stop or time.monotonic() - saved > settings.checkpoint_seconds:
                with meters.apart():
                    is_safe = _save(run, objective, updates.optimizer)
                saved = time.monotonic()
                if is_asked_to_stop:
                    raise Stopped(_goodbye(stage, state, is_safe))
    if last < stage.num_updates:
        _save(run, objective, updates.optimizer)
        return False
    _finish(run, objective)
    return settings.stop_after is None


class _Updates:
    """The updates of one stage: forward, backward, sum, clip, step, average."""

    def __init__(self, stage: Stage, run: _Run) -> None:
        settings = run.settings
        self.stage = stage
        self.run = run
        self.objective = stage.objective.to(settings.device).train()
        self.optimizer = build_optimizer(
            stage.trainable(stage.num_updates - 1),
            settings.betas,
            settings.eps,
            settings.weight_decay,
            settings.decay_all,
        )
        _restore(run, self.objective, self.optimizer)
        self.meters = Meters(settings.device)
        self.module: nn.Module = self.objective
        """The objective as it is called: wrapped for what moves."""
        self.moving: list[nn.Parameter] = []
        self.num_skipped_in_a_row = 0

    def take(self, update: int, batches: list[Batch]) -> tuple[float, bool]:
        """One update of all processes: its loss, and whether one of them was asked to stop."""
        settings, state, objective = self.run.settings, self.run.state, self.objective
        self.optimizer.zero_grad(set_to_none=True)
        self._let_move(self.stage.trainable(update))
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.schedule.at(update, self.stage.num_updates)
        buffers = [buffer.clone() for buffer in objective.buffers()]
        totals = _backward(self.module, objective, batches, (settings.seed, state.stage, update), settings, self.meters)
        totals = sum_over_processes(torch.cat([totals, totals.new_tensor([float(bool(self.run.stop.signal))])]))
        norm = scale_and_clip(self.moving, totals[1], settings.clip_norm)
        loss, count, num_asked, grad_norm = torch.cat([totals, norm.view(1)]).tolist()  # waits for the device
        loss /= max(count, 1.0)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.optimizer.step()
            _average(state, objective, settings.average_decay)
            self.meters.add_update(loss, grad_norm)
            self.num_skipped_in_a_row = 0
        else:
            self._leave_out(update, buffers)
        state.update = update + 1
        return loss, num_asked > 0

    def _let_move(self, moving: list[nn.Parameter]) -> None:
        """Only `moving` needs gradients, which saves the rest's backward pass; where that is news, wrap again."""
        wanted = {id(parameter) for parameter in moving}
        changed = not self.moving
        for parameter in self.objective.parameters():
            changed |= parameter.requires_grad != (id(parameter) in wanted)
            parameter.requires_grad_(id(parameter) in wanted)
        if changed:
            self.module, self.moving = distributed.wrap(self.objective), moving

    def _leave_out(self, update: int, buffers: list[Tensor]) -> None:
        """Count an update whose loss or gradient is not finite; batch norm forgets what it saw there.

        buffers: the objective's before the update.
        """
        for buffer, before in zip(self.objective.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.run.state.skipped += 1
        self.meters.skipped += 1
        self.num_skipped_in_a_row += 1
        if self.num_skipped_in_a_row >= MAX_CONSECUTIVE_SKIPS:
            raise DivergedError(
                f"stage {self.stage.name}, update {update}: the loss was not finite {self.num_skipped_in_a_row} times "
                "in a row; lower the learning rate or raise the warm-up, and start again from an earlier state"
            )


def prefetch(
    batches: Callable[[int], list[Batch]], first: int, last: int, ahead: int
) -> Generator[tuple[int, list[Batch]], None, None]:
    """(update, its batches) for first <= update < last, the next ones made by a thread meanwhile.

    An error in making them is raised where they would have come. Closing it ends the thread.
    """
    executor = ThreadPoolExecutor(1, thread_name_prefix="batches")
    try:
        waiting: deque[tuple[int, Future[list[Batch]]]] = deque()
        for update in range(first, last):
            waiting.append((update, executor.submit(batches, update)))
            if len(waiting) > ahead:
                ready, future = waiting.popleft()
                yield ready, future.result()
        while waiting:
            ready, future = waiting.popleft()
            yield ready, future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _backward(
    module: nn.Module,
    objective: Objective,
    batches: list[Batch],
    position: tuple[int, int, int],
    settings: Settings,
    meters: Meters,
) -> Tensor:
    """This process's gradient of the SUMMED loss; (2,) that sum and what it counts. `position`: seed, stage, update."""
    totals = torch.zeros(2, device=settings.device)
    for index, batch in enumerate(batches):
        # Dropout belongs to the micro-batch, LayerDrop to the update: every process drops the same layers.
        torch.manual_seed(seed_of(*position, int(batch.seeds[0]) if len(batch) else index))
        objective.model.encoder.layer_random.manual_seed(seed_of(*position))
        with distributed.exchange(module, now=index == len(batches) - 1):
            with autocast(settings.device, settings.precision):
                loss: Loss = module(batch.to(settings.device), position[-1])
            loss.total.backward()
        totals += torch.stack([loss.total.detach().float(), totals.new_tensor(float(loss.count))])
        meters.add(batch, loss)
    return totals


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """bf16: matrix products and convolutions in bfloat16; weights and losses stay fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def precision_on(device: torch.device, asked: Precision) -> Precision:
    """What a recipe's precision comes to: fp32 where the processor has no bfloat16."""
    return asked if multiplies(torch.bfloat16, device) else "fp32"


def seed_of(*numbers: int) -> int:
    """A seed for a generator, a hash of non-negative numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def validate(
    objective: Objective, state: TrainState, measure: Callable[[], dict[str, float]] | None
) -> dict[str, float]:
    """Measure the averaged weights if there are any, those of the objective's heads too, and put the others back."""
    assert measure is not None
    current = {name: value.clone() for name, value in objective.state_dict().items()} if state.average else {}
    objective.load_state_dict(_joined(state.average, state.average_heads) if current else {}, strict=False)
    objective.eval()
    try:
        with torch.no_grad():
            return measure()
    finally:
        objective.load_state_dict(current, strict=False)
        objective.train()


def start_state(model: SpeechModel, checkpoints: Checkpoints, settings: Settings, resume: bool) -> TrainState:
    """A new run's state, or the last one of the run that the folder holds, whose weights the model is given."""
    if not resume and checkpoints.paths():
        raise UserError(f"{settings.output} holds a run: go on with --resume, or choose another output folder")
    state = (checkpoints.load() if resume else None) or TrainState()
    distributed.check_agreement((state.stage, state.update))
    check_same(state.recipe, settings.recipe, settings.output)
    state.recipe = settings.recipe
    if state.model:
        with _fitting(settings.output):
            model.load_state_dict(state.model)
    for average in (state.average, state.average_heads):
        average.update({name: value.to(settings.device) for name, value in average.items()})
    return state


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Around loading a state: one line if it is of another model or recipe."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: its state does not fit this recipe ({reason}); resume with the recipe that the run was started "
            "with, or choose another output folder"
        ) from error


def prepare_encoder(model: SpeechModel, settings: Settings) -> None:
    """What of the settings concerns how the encoder's layers are run, not what they compute."""
    model.encoder.checkpoint_layers = settings.checkpoint_activations
    if settings.compile:
        for layer in model.encoder.layers:
            layer.compile()


def _restore(run: _Run, objective: Objective, optimizer: torch.optim.Optimizer) -> None:
    """Optimiser and heads as they were, in the middle of a stage; at its beginning, drop those of the stage before."""
    state = run.state
    if state.update == 0:
        state.heads, state.average_heads = {}, {}
    with _fitting(run.settings.output):
        if state.optimizer:
            optimizer.load_state_dict(state.optimizer)
        if state.heads:
            objective.load_state_dict(_joined(objective.model.state_dict(), state.heads))


def _joined(model: dict[str, Tensor], heads: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the objective from those of its two parts."""
    return {**{f"model.{name}": value for name, value in model.items()}, **heads}


def heads_of(objective: Objective) -> dict[str, Tensor]:
    """The objective's tensors apart from the model's."""
    return {name: value for name, value in objective.state_dict().items() if not name.startswith("model.")}


def _save(run: _Run, objective: Objective, optimizer: torch.optim.Optimizer) -> bool:
    """The state in the middle of a stage; False if the disk refused it."""
    run.state.model, run.state.heads = objective.model.state_dict(), heads_of(objective)
    run.state.optimizer = optimizer.state_dict()
    return not distributed.is_first() or run.checkpoints.save(run.state)


def _finish(run: _Run, objective: Objective) -> None:
    """The state between two stages; the heads are kept until the next one begins, with heads of its own."""
    state = run.state
    state.stage, state.update, state.optimizer = state.stage + 1, 0, {}
    state.model, state.heads = objective.model.state_dict(), heads_of(objective)
    if distributed.is_first():
        run.checkpoints.save(state)


def _is_due(done: int, every: int, stage: Stage) -> bool:
    """Whether this process measures now: at regular updates and at the end of the stage."""
    return bool(stage.validate and distributed.is_first() and (done % every == 0 or done == stage.num_updates))


def _average(state: TrainState, objective: Objective, decay: float) -> None:
    if not decay or not distributed.is_first():
        return
    state.num_averaged += 1
    move_average(state.average, objective.model.state_dict(), decay, state.num_averaged)
    move_average(state.average_heads, heads_of(objective), decay, state.num_averaged)


def _goodbye(stage: Stage, state: TrainState, safe: bool) -> str:
    place = f"stopped by a signal after update {state.update} of {stage.name}"
    return (
        f"{place}; go on with --resume" if safe else f"{place}, whose state could not be saved; --resume repeats some"
    )

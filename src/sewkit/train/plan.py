"""What a run will be, told before it starts: parameters, cost, sound, epochs, memory, time.

Time and activations are measured on a real micro-batch of each stage, forward and backward, and scaled to an update.
Not in the expected time: measuring dev sets, writing states, and data that is slower to make than to train on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from sewkit.audio import SAMPLE_RATE
from sewkit.collective import sum_over_processes
from sewkit.compute import macs
from sewkit.data.batch import Batch
from sewkit.objectives.loss import Objective
from sewkit.train import distributed
from sewkit.train.loop import Settings, Stage, autocast, prepare_encoder, seed_of

CLIP_SECONDS = 10
MEASURED_SECONDS = 20.0
"""Most sound of the measured micro-batch on a CPU, which takes seconds; a GPU measures all of it."""
BYTES = 4


@dataclass(frozen=True)
class Group:
    """Parameters that belong together, and how many of them the last stage moves."""

    name: str
    num_parameters: int
    num_moving: int


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage. Sound is of all processes together, without padding."""

    name: str
    num_updates: int
    audio_seconds: float
    """Of an update."""
    micro_batches: int
    """Of an update, in one process."""
    epochs: float | None
    """Passes over the data, where its hours are known."""
    seconds_per_update: float
    memory: dict[str, int]
    """Bytes in one process, by what they hold."""

    @property
    def seconds(self) -> float:
        """Expected time of all updates."""
        return self.num_updates * self.seconds_per_update


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The facts of a run before it starts."""

    groups: tuple[Group, ...]
    macs_per_second: int
    """Multiply-accumulates of a forward pass, for a second of sound."""
    num_processes: int
    device: str
    stages: tuple[StagePlan, ...]

    @property
    def seconds(self) -> float:
        """Expected time of the whole run."""
        return sum(stage.seconds for stage in self.stages)


def make_plan(stages: list[Stage], settings: Settings, data_hours: float | None = None) -> Plan:
    """Measure a micro-batch of each stage; weights, buffers and random numbers of the run stay what they are.

    data_hours: sound in the training data, for epochs. Every process must call this.
    """
    config = stages[0].objective.model.config
    prepare_encoder(stages[0].objective.model, replace(settings, compile=False))
    return Plan(
        groups=tuple(parameter_groups(stages[-1])),
        macs_per_second=sum(macs(config, CLIP_SECONDS * SAMPLE_RATE).values()) // CLIP_SECONDS,
        num_processes=distributed.rank_and_world()[1],
        device=settings.device.type,
        stages=tuple(_plan_stage(stage, settings, data_hours) for stage in stages),
    )


def parameter_groups(stage: Stage) -> Iterator[Group]:
    """Extractor, encoder and heads, those of the objective included."""
    moving = {id(parameter) for parameter in stage.trainable(stage.num_updates - 1)}
    groups: dict[str, list[nn.Parameter]] = {"extractor": [], "encoder": [], "heads": []}
    for name, parameter in stage.objective.named_parameters():
        is_head = not name.startswith("model.") or name.startswith("model.head.")
        groups["heads" if is_head else "extractor" if name.startswith("model.features.") else "encoder"].append(
            parameter
        )
    for name, parameters in groups.items():
        yield Group(name, _count(parameters), _count(p for p in parameters if id(p) in moving))


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _plan_stage(stage: Stage, settings: Settings, data_hours: float | None) -> StagePlan:
    updates = [stage.batches(update) for update in sorted({0, stage.num_updates // 2})]
    batches = [batch for update in updates for batch in update]
    largest = max(batches, key=lambda batch: batch.waveforms.numel())
    seconds, activations = measure(stage, largest, settings)
    padded = sum(batch.waveforms.numel() for batch in batches) / len(updates)
    sound = torch.tensor(
        sum(int(batch.sample_lengths.sum()) for batch in batches) / len(updates), device=settings.device
    )
    audio_seconds = float(sum_over_processes(sound)) / SAMPLE_RATE
    moving = _count(stage.trainable(stage.num_updates - 1))
    every = _count(stage.objective.parameters())
    return StagePlan(
        name=stage.name,
        num_updates=stage.num_updates,
        audio_seconds=audio_seconds,
        micro_batches=-(-len(batches) // len(updates)),
        epochs=stage.num_updates * audio_seconds / 3600 / data_hours if data_hours else None,
        seconds_per_update=seconds * padded / max(largest.waveforms.numel(), 1),
        memory={
            "weights": BYTES * every,
            "gradients": BYTES * moving,
            "Adam's moments": 2 * BYTES * moving,
            "average": BYTES * every if settings.average_decay else 0,
            "activations": activations,
        },
    )


def measure(stage: Stage, batch: Batch, settings: Settings) -> tuple[float, int]:
    """(seconds, bytes of activations) of forward and backward on a micro-batch; the first pass warms up."""
    part = batch if settings.device.type == "cuda" else first_rows(batch, MEASURED_SECONDS)
    share = part.waveforms.numel() / max(batch.waveforms.numel(), 1) or 1.0  # a process's batch may have no rows
    objective = stage.objective.to(settings.device).train()
    moving = {id(parameter) for parameter in stage.trainable(stage.num_updates - 1)}
    for parameter in objective.parameters():
        parameter.requires_grad_(id(parameter) in moving)
    with _untouched(objective):
        activations = _forward_and_backward(objective, part.to(settings.device), settings)
        before = time.perf_counter()
        _forward_and_backward(objective, part.to(settings.device), settings)
        seconds = time.perf_counter() - before
    return seconds / share, round(activations / share)


def _forward_and_backward(objective: Objective, batch: Batch, settings: Settings) -> int:
    """Bytes that the forward pass keeps for the backward pass; on a GPU the highest memory in both."""
    on_gpu = settings.device.type == "cuda"
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(settings.seed)
    objective.model.encoder.layer_random.manual_seed(seed_of(settings.seed))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(settings.device)
    before = torch.cuda.memory_allocated(settings.device) if on_gpu else 0
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, autocast(settings.device, settings.precision):
        loss = objective(batch, 0)
    loss.total.backward()
    if on_gpu:
        torch.cuda.synchronize(settings.device)
        return torch.cuda.max_memory_allocated(settings.device) - before
    weights = {parameter.untyped_storage().data_ptr() for parameter in objective.parameters()}
    return sum(size for place, size in kept.items() if place not in weights)


@contextmanager
def _untouched(objective: Objective) -> Iterator[None]:
    """Put buffers (batch norm counts) back afterwards, and drop the gradients."""
    buffers = {name: value.clone() for name, value in objective.named_buffers()}
    try:
        yield
    finally:
        for name, value in objective.named_buffers():
            value.copy_(buffers[name])
        objective.zero_grad(set_to_none=True)


def first_rows(batch: Batch, seconds: float) -> Batch:
    """The batch's first rows: at least one, and no more than `seconds` of sound with padding."""
    rows = max(1, int(seconds * SAMPLE_RATE // batch.waveforms.shape[1]))
    parts = {
        "waveforms",
        "sample_lengths",
        "label_lengths",
        "texts",
        "seeds",
        "spans",
        "time_mask",
        "group_rows",
        "classes",
    }
    values = {name: getattr(batch, name) for name in parts}
    cut = {name: value[:rows] for name, value in values.items() if value is not None}
    return replace(batch, **cut, labels=batch.labels[: int(batch.label_lengths[:rows].sum())])


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Tables: the model, and the stages, of which a few share one."""
    console = console or Console(stderr=True)
    model = Table("parameters", title="model", title_justify="left")
    for column in ("all", "trained"):
        model.add_column(column, justify="right")
    for group in plan.groups:
        model.add_row(group.name, _millions(group.num_parameters), _millions(group.num_moving))
    console.print(model)
    beside = max(1, (console.width - 31) // 19)  # stages in a table, by the widths of its labels and figures
    for first in range(0, len(plan.stages), beside):
        stages = plan.stages[first : first + beside]
        run = Table("", title=f"run: {plan.num_processes} x {plan.device}", title_justify="left")
        for stage in stages:
            run.add_column(stage.name, justify="right")
        rows = [_stage_rows(stage) for stage in stages]
        for label in dict.fromkeys(label for row in rows for label in row):
            run.add_row(label, *(row.get(label, "-") for row in rows))
        console.print(run)
    console.print(
        f"forward pass: {plan.macs_per_second / 1e6:,.0f} MMAC for a second of sound; "
        f"expected time: {_duration(plan.seconds)}, measuring and saving not counted",
        highlight=False,
    )


def _stage_rows(stage: StagePlan) -> dict[str, str]:
    gigabytes = {name: f"{size / 1e9:.2f} GB" for name, size in stage.memory.items() if size}
    return {
        "updates": f"{stage.num_updates:,}",
        "sound in an update": f"{stage.audio_seconds:,.0f} s ({stage.audio_seconds / 3600:.3f} h)",
        "micro-batches of a process": str(stage.micro_batches),
        "epochs": "-" if stage.epochs is None else f"{stage.epochs:,.1f}",
        "time of an update": f"{stage.seconds_per_update:.2f} s",
        "expected time": _duration(stage.seconds),
        "memory of a process": f"{sum(stage.memory.values()) / 1e9:.2f} GB",
        **{f"  {name}": size for name, size in gigabytes.items()},
    }


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))

"""What a run reports: means since the last line, written as JSON lines and to TensorBoard."""

import json
import math
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from sewkit.audio import SAMPLE_RATE
from sewkit.collective import sum_over_processes
from sewkit.data.batch import Batch
from sewkit.files import write_whole
from sewkit.objectives.loss import Loss
from sewkit.train import distributed
from sewkit.train.progress import Progress

LOG_NAME = "log.jsonl"

Item = TypeVar("Item")


class Meters:
    """Means since the last line. Metrics stay on their device until they are taken: nothing waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0.0
        self.samples = 0.0
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.skipped = 0
        self.started = time.monotonic()
        self.waited = 0.0
        self.set_apart = 0.0

    def waiting(self, updates: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time until each is there counts as waiting for data."""
        iterator = iter(updates)
        while True:
            before = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self.waited += time.monotonic() - before
            yield item

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Around measuring and saving, which are not the updates' time."""
        before = time.monotonic()
        yield
        self.set_apart += time.monotonic() - before

    def add(self, batch: Batch, loss: Loss) -> None:
        """One micro-batch of this process; the batch as it was drawn, on the CPU."""
        for name, value in loss.metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().float() * loss.count
        self.count += loss.count
        self.samples += int(batch.sample_lengths.sum())

    def add_update(self, loss: float, grad_norm: float) -> None:
        """One update of all processes."""
        self.losses.append(loss)
        self.norms.append(grad_norm)

    def take(self) -> dict[str, float]:
        """Means over all processes, which must call this together; starts anew.

        loss and grad_norm: over the updates that were taken, nan if there were none. skipped: updates that were not.
        seconds_per_update: without measuring and saving. audio_per_second: seconds of sound in a second.
        waiting_for_data: share of the time.
        """
        seconds = max(time.monotonic() - self.started - self.set_apart, 1e-9)
        names = sorted(self.sums)
        counted = torch.tensor([self.count, self.samples], device=self.device)
        metrics = [self.sums[name].to(counted) for name in names]
        count, samples, *sums = sum_over_processes(torch.cat([counted, *(value.view(1) for value in metrics)])).tolist()
        values = {
            "loss": _mean(self.losses),
            "grad_norm": _mean(self.norms),
            **{name: value / max(count, 1.0) for name, value in zip(names, sums, strict=True)},
            "seconds_per_update": seconds / max(len(self.losses) + self.skipped, 1),
            "audio_per_second": samples / SAMPLE_RATE / seconds,
            "waiting_for_data": self.waited / seconds,
            "skipped": self.skipped,
        }
        self._reset()
        return values


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


class Log:
    """`log.jsonl` in the run's folder, TensorBoard events where it is installed, and the progress bar.

    Only the first process writes. Lines after the position that a run resumes from are cut off when it starts, so the
    file holds each update once. A disk that is full costs lines, not the run.
    """

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.path = folder / LOG_NAME
        self.progress = progress
        self.events: Any = None
        self.step = progress.done

    def __enter__(self) -> "Log":
        if distributed.is_first():
            cut_log(self.path, self.step)
            self.events = _tensorboard(self.path.parent, self.step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.events is not None:
            with suppress(OSError):
                self.events.close()

    def advance(self, loss: float) -> None:
        """One update done."""
        self.step += 1
        self.progress.advance(loss)

    def write(self, stage: str, update: int, values: dict[str, float], alarms: list[str] | None = None) -> None:
        """One line; `update` counts within the stage, its `step` over all of them. Nothing on other processes."""
        if not distributed.is_first():
            return
        rounded = {name: float(f"{value:.5g}") for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in rounded.items()}  # JSON has no nan
        line: dict[str, Any] = {"stage": stage, "update": update, "step": self.step, **finite}
        if alarms:
            line["alarms"] = alarms
        _append(self.path, _as_text(line))
        self._draw(rounded)
        self.progress.report(line)

    def _draw(self, values: dict[str, float]) -> None:
        """TensorBoard events; none any more after a full disk, which ends TensorBoard's writer."""
        try:
            for name, value in values.items() if self.events is not None else ():
                self.events.add_scalar(name, value, self.step)
        except OSError as error:
            self.events = None
            warnings.warn(f"{self.path.parent}: no more TensorBoard events ({error.strerror})", stacklevel=3)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log, oldest first; a last one that a kill cut short is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def cut_log(path: Path, step: int) -> None:
    """Drop the lines after a step: a killed run goes on from its last state and repeats those updates."""
    kept = "".join(_as_text(line) for line in read_log(path) if line["step"] <= step)
    if not path.exists() or path.read_text(encoding="utf-8", errors="replace") == kept:
        return
    write_whole(path, kept)


def _as_text(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _append(path: Path, text: str) -> None:
    """Add a whole line or nothing; a disk that refuses is a warning."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if path.exists():
            os.truncate(path, size)
        warnings.warn(f"{path}: a line could not be written ({error.strerror}); make room on the disk", stacklevel=3)


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer of events that replace those after `step`; None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

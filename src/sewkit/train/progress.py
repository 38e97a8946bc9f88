"""Progress of a run: a bar with loss, error rates and time left on a terminal, one line an interval elsewhere."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

NOT_SHOWN = ("stage", "update", "step", "alarms")
MEASURED = ("wer_", "cer_", "accuracy_")
"""How names of what is measured on dev sets begin."""


class Progress:
    """Context manager around one run, of which `done` updates lie behind."""

    def __init__(self, num_updates: int, done: int = 0, console: Console | None = None, hidden: bool = False) -> None:
        self.num_updates = num_updates
        self.done = done
        self.begin_stage()
        self.console = console or Console(stderr=True)
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[measured]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=hidden or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=num_updates, completed=done, loss="-", measured="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def begin_stage(self) -> None:
        """Time left is told by the pace of the stage that begins now."""
        self.first = self.done
        self.started = time.monotonic()

    def advance(self, loss: float) -> None:
        """One update done."""
        self.done += 1
        self.bar.update(self.task, advance=1, loss=f"{loss:.3f}")

    def report(self, line: dict[str, Any]) -> None:
        """A log line: its alarms always, its error rates beside the bar, all of it where there is no bar."""
        for alarm in line.get("alarms", ()):
            self.console.print(f"alarm: {alarm}", style="bold red", highlight=False, soft_wrap=True, markup=False)
        rates = [
            f"{name} {value:.1%}" for name, value in line.items() if name.startswith(MEASURED) and value is not None
        ]
        if rates:
            self.bar.update(self.task, measured="  ".join(rates))
        if not self.console.is_terminal:
            figures = [f"{name} {value}" for name, value in line.items() if name not in NOT_SHOWN]
            text = "  ".join([f"{line['stage']} {line['update']}", *figures, f"{self.time_left()} left"])
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def time_left(self) -> str:
        """Hours, minutes and seconds, from the mean over the stage's updates, measuring and saving included."""
        seconds_each = (time.monotonic() - self.started) / max(self.done - self.first, 1)
        return str(timedelta(seconds=round(seconds_each * max(self.num_updates - self.done, 0))))

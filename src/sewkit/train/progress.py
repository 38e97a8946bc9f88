"""Progress of a run: a bar with loss, word error rate and time left on a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress:
    """Context manager around one run."""

    def __init__(self, num_updates: int, console: Console | None = None, hidden: bool = False) -> None:
        self.console = console or Console(stderr=True)
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[errors]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=hidden or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("training", total=num_updates, loss="-", errors="")

    def __enter__(self) -> "Progress":
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def skip(self, num_updates: int) -> None:
        """Updates done before this call."""
        self.bar.update(self.task, completed=num_updates)

    def advance(self, loss: float) -> None:
        """One update done."""
        self.bar.update(self.task, advance=1, loss=f"{loss:.3f}")

    def report(self, line: dict[str, Any]) -> None:
        """A log line; error rates stay visible beside the bar."""
        rates = [f"{name} {value:.1%}" for name, value in line.items() if name.startswith("wer")]
        if rates:
            self.bar.update(self.task, errors="  ".join(rates))
        if not self.console.is_terminal:
            self.console.print(
                "  ".join(f"{name} {value}" for name, value in line.items()), highlight=False, soft_wrap=True
            )

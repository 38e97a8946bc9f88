"""A progress bar with time left on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def counted(task: str, unit: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A bar over `total` of a unit (None: not known); yields the function to call with each lot done."""
    console = Console(stderr=True)
    columns = (
        TextColumn(task),
        BarColumn(),
        TextColumn(f"{{task.completed:,.0f}} {'of {task.total:,.0f} ' if total else ''}{unit}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(unit, total=total)
        yield lambda count: progress.advance(bar, count)


def seconds_of_audio(total: float | None, doing: str) -> AbstractContextManager[Callable[[float], None]]:
    """A bar over sound, named for what is being done with it, such as "transcribing"."""
    return counted(doing, "s of audio", total)

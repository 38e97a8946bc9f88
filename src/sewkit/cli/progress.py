"""A progress bar with time left on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def seconds_of_audio(total: float | None, doing: str) -> Iterator[Callable[[float], None]]:
    """A bar over `total` seconds of sound (None: not known), named for what is being done, such as "transcribing".

    Yields the function to call with each stretch done.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn(doing),
        BarColumn(),
        TextColumn(
            "{task.completed:,.0f} of {task.total:,.0f} s of audio" if total else "{task.completed:,.0f} s of audio"
        ),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("audio", total=total)
        yield lambda seconds: progress.advance(task, seconds)

"""What verbs over many recordings share: finding them, running them with a bar, one line for each bad one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import typer

from sewkit.cli.progress import seconds_of_audio
from sewkit.cli.sources import STDIN, find_audio, total_seconds

if TYPE_CHECKING:
    from sewkit.audio import AudioError

Result = TypeVar("Result")


class Recordings:
    """The recordings that a command line names. Bad ones get a line on standard error and are counted."""

    def __init__(self, arguments: list[str]):
        self.num_bad = 0
        self.paths = find_audio(arguments, on_error=self.report)

    def run(self, batch: Callable[..., Iterator[Result]], doing: str) -> Iterator[Result]:
        """Results of `Recognizer.transcribe_batch` or its like, in order, under a bar that says what is being done.

        After the last one, exit status 1 if any recording was bad.
        """
        inputs = [sys.stdin.buffer if path == STDIN else path for path in self.paths]
        with seconds_of_audio(total_seconds(self.paths), doing) as on_progress:
            yield from batch(inputs, on_progress=on_progress, on_error=self.report)
        if self.num_bad:
            raise typer.Exit(1)

    def report(self, error: AudioError) -> None:
        """A line on standard error for a bad recording."""
        self.num_bad += 1
        print(f"sewkit: {error}", file=sys.stderr)

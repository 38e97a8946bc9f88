"""Time left is told by the pace of the stage that runs."""

import io

import pytest
from rich.console import Console

from sewkit.train.progress import Progress


def test_time_left_is_by_the_pace_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress(20, console=Console(file=io.StringIO()))
    for stage_seconds in (1.0, 10.0):
        progress.begin_stage()
        for _ in range(5):
            now += stage_seconds
            progress.advance(1.0)
    assert progress.time_left() == "0:01:40"

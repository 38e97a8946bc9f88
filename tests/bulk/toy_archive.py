"""What the tests of bulk share beside fixtures: a small archive, an engine that dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sewkit.bulk import read_rows
from sewkit.bulk.job import Options
from sewkit.bulk.local import InlineEngine
from sewkit.bulk.stages import Transcriber
from sewkit.testing import synthetic_speech


def write_sounds(folder: Path, count: int, seconds: float = 0.5) -> None:
    """Recordings of different lengths in three folders."""
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        num_samples = int(16_000 * seconds * (1 + np.sin(number) / 2))
        soundfile.write(path, synthetic_speech(num_samples, seed=number), 16_000)


def rows_of(folder: Path | str) -> dict[str, dict[str, Any]]:
    """By the recording's name, of which none comes twice."""
    rows = list(read_rows(str(folder)))
    assert len(rows) == len({row["recording"] for row in rows}), "a recording twice"
    return {row["recording"]: row for row in rows}


def times_of(row: dict[str, Any]) -> list[tuple[float, float]]:
    """Of its words."""
    return [(word["start"], word["end"]) for word in row["words"]]


class DyingEngine(InlineEngine):
    """As if the program were killed after so many lots."""

    lots = 0

    def run(self, lots: Any, choose: Any) -> Any:
        for number, result in enumerate(super().run(lots, choose), start=1):
            yield result
            if number == self.lots:
                raise KeyboardInterrupt


def dying_after(lots: int) -> Callable[[Options], InlineEngine]:
    """To take the place of `start_engine`."""

    def start(options: Options) -> InlineEngine:
        engine = DyingEngine(Transcriber(options.model.load()))
        engine.lots = lots
        return engine

    return start

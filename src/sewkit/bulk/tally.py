"""How far a job is: counts, sound, time by stage, and what is left by the measure that the listing allows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from sewkit.bulk.listing import Entry
from sewkit.bulk.rows import Row
from sewkit.bulk.stages import STAGES, LotResult, Stopwatch

MAX_HISTORY = 1024
"""Moments that are remembered for the plot; beyond, every other one is forgotten."""


class Measure:
    """The size of a recording before it is read: seconds where the input says, else bytes, else one."""

    def __init__(self, entries: Iterable[Entry]):
        entries = list(entries)
        if all(entry.seconds is not None for entry in entries):
            self.unit = "seconds"
        elif all(entry.num_bytes for entry in entries):
            self.unit = "bytes"
        else:
            self.unit = "recordings"

    def __call__(self, entry: Entry) -> float:
        """In `unit`."""
        if self.unit == "seconds":
            return entry.seconds or 0.0
        return float(entry.num_bytes or 0) if self.unit == "bytes" else 1.0


@dataclass
class Moment:
    """For the plot: seconds since the run began, sound done in this run, and at which point."""

    elapsed: float
    audio_seconds: float
    point: str


@dataclass
class Tally:
    """Counts over the whole output; times of this run only."""

    measure: Measure
    total: float
    """Size of all recordings."""
    num_recordings: int
    began: float = field(default_factory=time.time)
    done: float = 0.0
    num_done: int = 0
    num_before: int = 0
    """Recordings that earlier runs did."""
    errors: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    """Seconds of sound at each operating point."""
    audio_seconds: float = 0.0
    run_audio_seconds: float = 0.0
    num_words: int = 0
    confidences: list[int] = field(default_factory=lambda: [0] * 50)
    """Recordings by confidence, in 50 bins from 0 to 1."""
    watch: Stopwatch = field(default_factory=Stopwatch)
    history: list[Moment] = field(default_factory=list)
    _stride: int = 1
    _results: int = 0

    def add_rows(self, rows: Iterable[Row], sign: int = 1) -> None:
        """Count rows, or with -1 take back those that are replaced."""
        for row in rows:
            if row["error_kind"] is not None:
                self.errors[row["error_kind"]] += sign
                continue
            self.audio_seconds += sign * row["audio_seconds"]
            self.points[row["operating_point"]] += sign * row["audio_seconds"]
            self.num_words += sign * len(row["words"])
            if row["confidence"] is not None:
                self.confidences[min(int(row["confidence"] * 50), 49)] += sign

    def add_before(self, entries: Iterable[Entry], rows: list[Row]) -> None:
        """What an earlier run did."""
        self.add_rows(rows)
        self.done += sum(map(self.measure, entries))
        self.num_done += len(rows)
        self.num_before += len(rows)

    def add_result(self, result: LotResult) -> None:
        """A lot of this run."""
        self.add_rows(result.rows)
        self.add_work(result)
        self.done += sum(map(self.measure, result.lot.entries))
        self.num_done += len(result.rows)

    def add_work(self, result: LotResult) -> None:
        """Only what a lot took."""
        self.run_audio_seconds += result.audio_seconds
        self.watch.add(result.watch)
        self._results += 1
        if self._results % self._stride == 0:
            self.history.append(Moment(self.elapsed, self.run_audio_seconds, result.point))
        if len(self.history) >= MAX_HISTORY:
            self.history, self._stride = self.history[1::2], 2 * self._stride

    @property
    def elapsed(self) -> float:
        """Seconds of this run."""
        return time.time() - self.began

    @property
    def audio_left(self) -> float | None:
        """Seconds of sound that are not done, estimated from those that are; None before there are any."""
        if self.measure.unit == "seconds":
            return max(self.total - self.done, 0.0)
        if not self.done:
            return None
        return max(self.total - self.done, 0.0) * self.audio_seconds / self.done

    @property
    def speed(self) -> float | None:
        """Hours of sound per hour in this run; None before there is any."""
        return self.run_audio_seconds / self.elapsed if self.run_audio_seconds else None

    @property
    def seconds_left(self) -> float | None:
        """At this speed; None while not known."""
        left, speed = self.audio_left, self.speed
        return None if left is None or not speed else left / speed

    def shares(self) -> dict[str, float]:
        """Of the time that workers and writer spent, by stage."""
        total = sum(self.watch.wall.values()) or 1.0
        return {stage: self.watch.wall[stage] / total for stage in STAGES}

    def to_dict(self) -> dict[str, Any]:
        """For progress.json and the summary; hours of sound, shares from 0 to 1."""
        return {
            "recordings": self.num_recordings,
            "done": self.num_done,
            "done_before": self.num_before,
            "errors": dict(self.errors.most_common()),
            "audio_hours": self.audio_seconds / 3600,
            "words": self.num_words,
            "operating_points": {point: seconds / 3600 for point, seconds in self.points.items() if seconds > 1e-6},
            "run": {
                "seconds": self.elapsed,
                "audio_hours": self.run_audio_seconds / 3600,
                "audio_hours_per_hour": self.speed,
                "seconds_left": self.seconds_left,
                "stage_share": self.shares(),
                "stage_cpu_seconds": self.watch.cpu,
                "stage_seconds": self.watch.wall,
            },
        }

"""`--dry-run`: time and cost of a job from a sample of its recordings."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

from sewkit.bulk.controller import Candidate, candidates
from sewkit.bulk.job import Options, first_pass_points
from sewkit.bulk.listing import Entry, Lot, find_recordings
from sewkit.bulk.stages import TRANSCRIBE, Decoded, LotResult, Reader, Stopwatch, Transcriber
from sewkit.bulk.tally import Measure
from sewkit.compute import Compute
from sewkit.errors import UserError

SAMPLE = 64
"""Recordings, evenly spread over the input."""
NORMAL_95 = 1.96


@dataclass(frozen=True)
class Estimate:
    """What the sample says of the whole; hours with the half-width of a 95 % interval."""

    recordings: int
    sampled: int
    errors: int
    audio_hours: float
    audio_hours_error: float
    workers: int
    machines: int
    points: list[dict[str, Any]]
    """point, wer, audio_hours_per_hour, hours, cost, in_time; cheapest first."""


def estimate(options: Options, num_workers: int, num_machines: int) -> Estimate:
    """Read, decode and transcribe a sample at each operating point that the job may choose, in this process.

    All models are taken to run as fast side by side as one does alone. Raises UserError as a job would, and where no
    recording of the sample can be heard.
    """
    options.check()
    entries = find_recordings(options.input).entries
    asr = options.model.load()
    transcriber = Transcriber(asr)
    sample = entries[:: max(1, math.ceil(len(entries) / SAMPLE))]
    decoded = Reader().read(Lot("sample", 0, tuple(sample)))
    points = first_pass_points(options, asr) if options.compute or not options.budget.is_set else candidates(asr)

    def transcribed(point: Compute) -> LotResult:
        return transcriber.transcribe(Decoded(decoded.lot, decoded.sounds, Stopwatch()), point)

    first = transcribed(points[0].compute).rows  # the first call of a model is slow, and not counted
    seconds = [row["audio_seconds"] for row in first]
    heard = sum(filter(None, seconds))
    if not heard:
        raise UserError(
            f"{options.input}: no recording of {len(sample)} can be transcribed, the first because of this: "
            f"{first[0]['error']}"
        )
    audio, error = _total_seconds(entries, sample, seconds)
    reading = sum(decoded.watch.wall.values()) / heard
    table = []
    for one in points:
        cost = (reading + transcribed(one.compute).watch.wall[TRANSCRIBE] / heard) / num_workers
        table.append(_expected(options, one, audio, cost, num_machines))
    bad = sum(row["error_kind"] is not None for row in first)
    return Estimate(len(entries), len(sample), bad, audio / 3600, error / 3600, num_workers, num_machines, table)


def _expected(options: Options, point: Candidate, audio: float, cost: float, num_machines: int) -> dict[str, Any]:
    """A row of `Estimate.points`; `audio` in seconds, `cost` in seconds of the job for a second of sound."""
    hours = audio * cost / 3600
    return {
        "point": str(point.compute),
        "wer": point.wer,
        "audio_hours_per_hour": 1 / cost,
        "hours": hours,
        "cost": None if options.price_per_hour is None else hours * num_machines * options.price_per_hour,
        "in_time": _is_in_time(options, hours, num_machines),
    }


def _total_seconds(entries: list[Entry], sample: list[Entry], seconds: list[float | None]) -> tuple[float, float]:
    """Sound of all recordings and the half-width of its interval: a ratio to what the listing knows of their size."""
    measure = Measure(entries)
    total = sum(map(measure, entries))
    sizes = [measure(entry) for entry in sample]
    found = [one or 0.0 for one in seconds]
    ratio = sum(found) / (sum(sizes) or 1.0)
    if measure.unit == "seconds" or len(sample) < 3:
        return (total if measure.unit == "seconds" else total * ratio), 0.0
    deviation = statistics.stdev(one - ratio * size for one, size in zip(found, sizes, strict=True))
    share = math.sqrt(1 - len(sample) / len(entries))  # nothing is uncertain about a sample that is everything
    return total * ratio, NORMAL_95 * share * deviation / math.sqrt(len(sample)) * len(entries)


def _is_in_time(options: Options, hours: float, num_machines: int) -> bool | None:
    """Whether a budget would allow it; None without one."""
    deadline = options.budget.deadline(0.0, num_machines)
    return None if deadline is None else time.time() + hours * 3600 <= deadline

"""A job from its start to its summary: what is missing is done, under a budget if there is one, and then refined."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from sewkit.bench.calibration import model_hash
from sewkit.bulk import refine, summary
from sewkit.bulk.budget import Budget, left
from sewkit.bulk.controller import MARGIN, Candidate, Controller, candidate, candidates
from sewkit.bulk.listing import SHARD_RECORDINGS, Entry, Recordings, Shard, cut_into_shards, find_recordings
from sewkit.bulk.local import Engine, InlineEngine, LocalEngine
from sewkit.bulk.rows import Row, check_format
from sewkit.bulk.shards import PROGRESS, Collector, claim, read_shard, shard_names, write_shard
from sewkit.bulk.stages import TRANSCRIBE, WRITE, LotResult, ModelSpec, Transcriber
from sewkit.bulk.storage import Folder
from sewkit.bulk.tally import Measure, Tally
from sewkit.compute import Compute
from sewkit.errors import UserError
from sewkit.recognizer import Recognizer
from sewkit.version import __version__

PROGRESS_SECONDS = 10.0
"""Between two writings of progress.json."""


@dataclass(frozen=True)
class Options:
    """What a job is told. Times of the budget are no part of what it is: another run of it may have others."""

    input: str
    output: str
    model: ModelSpec
    compute: str | None = None
    """Operating point; with `refine` that of the first pass."""
    budget: Budget = field(default_factory=lambda: Budget(time.time()))
    refine: bool = False
    format: str = "jsonl"
    workers: int | None = None
    """Models that run at the same time; None: one a core or GPU. 0: in this process."""
    ray: str | None = None
    """Address of a Ray cluster, "auto", or "local" to start one; None: no Ray."""
    shard_recordings: int = SHARD_RECORDINGS
    force: bool = False
    price_per_hour: float | None = None
    """Of one machine."""

    def check(self) -> None:
        """Raises UserError for what does not go together."""
        if self.budget.hours is not None and self.budget.finish_by is not None:
            raise UserError("--hours-budget and --finish-by are both given; expected one of them")
        if self.refine and not self.budget.is_set:
            raise UserError("--refine spends what is left of a budget; give --hours-budget or --finish-by too")
        if self.compute and self.budget.is_set and not self.refine:
            raise UserError("--compute fixes what a budget would choose; leave one of them out, or add --refine")
        check_format(self.format)


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_engine(options: Options) -> Engine:
    """Processes of this machine or actors of a cluster. Raises UserError where they cannot be had."""
    spec = options.model
    if options.ray is not None:
        from sewkit.bulk.cluster import RayEngine

        return RayEngine(spec, options.ray, options.workers)
    if options.workers == 0:
        return InlineEngine(Transcriber(spec.load()))
    count, devices = expected_size(options)[0], _devices(spec)
    return LocalEngine(spec, count, [devices[index % len(devices)] for index in range(count)] if devices else None)


def expected_size(options: Options) -> tuple[int, int]:
    """Models and machines that a job would have, without starting any."""
    if options.ray is not None:
        from sewkit.bulk.cluster import cluster_size

        return cluster_size(options.model, options.ray, options.workers)
    devices = _devices(options.model)
    return options.workers or len(devices) or max(1, num_cores() // (options.model.threads or 1)), 1


def _devices(spec: ModelSpec) -> list[str]:
    """GPUs to share out; none where the model runs on the CPU or on a device that was named."""
    if spec.device not in (None, "auto", "cuda"):
        return []
    import torch

    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def identity(options: Options, asr: Recognizer) -> dict[str, Any]:
    """What makes a job another one: its input, its model, and settings on which texts depend."""
    chosen = "cheapest" if options.refine else "by budget" if options.budget.is_set else str(asr.resolve(None))
    spec = options.model
    return {
        "input": options.input,
        "model": spec.source,
        "model_sha256": model_hash(asr),
        "version": __version__,
        "format": options.format,
        "compute": str(asr.resolve(options.compute)) if options.compute else chosen,
        "refine": options.refine,
        "dtype": spec.dtype,
        "runtime": spec.runtime,
        "lm": spec.lm,
    }


def first_pass_points(options: Options, asr: Recognizer) -> tuple[Candidate, ...]:
    """Those among which the first pass chooses, cheapest first."""
    if options.compute or not options.budget.is_set:
        return (candidate(asr, asr.resolve(options.compute)),)
    return candidates(asr)[:1] if options.refine else candidates(asr)


def _new_tally(recordings: Recordings, began: float) -> Tally:
    measure = Measure(recordings.entries)
    return Tally(measure, sum(map(measure, recordings.entries)), len(recordings.entries), began)


class Job:
    """One run of a job. Made, it knows what there is to do; `run` does it.

    Raises UserError where the input, the model or the output cannot be used.
    """

    def __init__(self, options: Options, on_progress: Callable[[Tally], None] = lambda tally: None):
        options.check()
        self.options = options
        self._on_progress = on_progress
        self._last_progress = 0.0
        self.folder = Folder(options.output)
        self.folder.expect_writable()
        self.recordings: Recordings = find_recordings(options.input)
        self._entries = {entry.name: entry for entry in self.recordings.entries}
        self.tally = _new_tally(self.recordings, options.budget.began)
        asr = options.model.load()
        self.identity = identity(options, asr)
        claim(self.folder, self.identity, options.force)
        self._points = first_pass_points(options, asr)
        self._refined = candidate(asr, asr.resolve(None))
        self._scores: dict[str, refine.Score] = {}
        self._num_refined = 0
        self._num_machines = 1
        self._before = self._earlier_runs()
        self._missing = self._find_missing()

    def run(self) -> dict[str, Any]:
        """Do what is missing, write the summary and return it. Raises UserError; then what is written stays."""
        engine = start_engine(self.options)
        try:
            self._num_machines = engine.num_machines
            self._deadline = self.options.budget.deadline(self._spent_hours(), engine.num_machines)
            reserve = MARGIN * (self._deadline - self.tally.began) if self._deadline else 0.0
            self._controller = Controller(self._points, engine.num_workers, reserve)
            self._first_pass(engine)
            if self.options.refine:
                self._refine(engine)
        finally:
            engine.close()
        self._write_progress()
        return summary.write(self.folder, self.tally, self._facts(engine))

    def _facts(self, engine: Engine) -> dict[str, Any]:
        """What the summary says beside the counts."""
        hours = self._spent_hours() + self._this_run()["machine_hours"]
        price, late = self.options.price_per_hour, None if self._deadline is None else -left(self._deadline)
        return {
            "job": self.identity,
            "workers": engine.num_workers,
            "machines": engine.num_machines,
            "cores": engine.num_workers * (self.options.model.threads or 1),
            "machine_hours": hours,
            "cost": None if price is None else price * hours,
            "late_seconds": late,
            "refined": self._num_refined,
        }

    # The passes

    def _first_pass(self, engine: Engine) -> None:
        collector = Collector()
        shards = cut_into_shards(self._missing, self.options.shard_recordings)
        lots = (lot for shard in shards for lot in collector.expect(shard))
        for result in engine.run(lots, self._choose):
            self.tally.add_result(result)
            self._observe(engine, result)
            rows = collector.take(result)
            if rows is not None:
                file = f"{result.lot.shard}.{self.options.format}"
                with self.tally.watch.measure(WRITE):
                    write_shard(self.folder, file, rows)
                self._note_scores(rows, file)
            self._show_progress()

    def _choose(self) -> Compute:
        if self._deadline is None or len(self._points) == 1:
            return self._points[-1].compute
        audio_left = self.tally.audio_left
        return self._controller.choose(float("inf") if audio_left is None else audio_left, left(self._deadline))

    def _observe(self, engine: Engine, result: LotResult) -> None:
        self._controller.num_workers = engine.num_workers  # a cluster changes its size
        model = result.watch.wall[TRANSCRIBE]
        self._controller.observe(result.point, model, max(result.elapsed - model, 0.0), result.audio_seconds)

    def _refine(self, engine: Engine) -> None:
        assert self._deadline is not None
        total = self._deadline - self.tally.began
        while True:
            time_left = left(self._deadline)
            cost = self._controller.cost(self._refined)
            names = refine.next_wave(self._scores, time_left, total, cost)
            if not names:
                return
            self._run_wave(engine, list(refine.wave_shards(names, self._scores, self._entries)))
            for name in names:
                del self._scores[name]

    def _run_wave(self, engine: Engine, shards: Iterable[Shard]) -> None:
        collector = Collector()
        lots = (lot for shard in shards for lot in collector.expect(shard))
        for result in engine.run(lots, lambda: self._refined.compute):
            self.tally.add_work(result)
            self._observe(engine, result)
            rows = collector.take(result)
            if rows is not None:
                with self.tally.watch.measure(WRITE):
                    file = f"{result.lot.shard}.{self.options.format}"
                    old, new = refine.replace_rows(self.folder, file, rows)
                self.tally.add_rows(old, sign=-1)
                self.tally.add_rows(new)
                self._num_refined += len(new)
            self._show_progress()

    # What is done

    def _find_missing(self) -> list[Entry]:
        done: set[str] = set()
        for file in shard_names(self.folder):
            rows = [row for row in read_shard(self.folder, file) if row["recording"] in self._entries]
            rows = [row for row in rows if row["recording"] not in done]
            done.update(row["recording"] for row in rows)
            self.tally.add_before([self._entries[row["recording"]] for row in rows], rows)
            self._note_scores(rows, file)
        return [entry for entry in self.recordings.entries if entry.name not in done]

    def _note_scores(self, rows: list[Row], file: str) -> None:
        if self.options.refine:
            for row in rows:
                found = refine.score(row, file, str(self._refined.compute))
                if found is not None:
                    self._scores[row["recording"]] = found

    # Progress

    def _earlier_runs(self) -> list[dict[str, Any]]:
        """Of progress.json, which is only needed for times: what cannot be read counts as none."""
        try:
            runs = json.loads(self.folder.read(PROGRESS) or b"{}").get("runs", [])
            return [run for run in runs if isinstance(run, dict)]
        except (ValueError, AttributeError):
            return []

    def _spent_hours(self) -> float:
        return sum(float(run.get("machine_hours", 0.0)) for run in self._before)

    def _this_run(self) -> dict[str, Any]:
        return {
            "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.tally.began)),
            "seconds": self.tally.elapsed,
            "machine_hours": self.tally.elapsed / 3600 * self._num_machines,
            "audio_hours": self.tally.run_audio_seconds / 3600,
        }

    def _show_progress(self) -> None:
        self._on_progress(self.tally)
        if time.monotonic() - self._last_progress > PROGRESS_SECONDS:
            self._write_progress()

    def _write_progress(self) -> None:
        self._last_progress = time.monotonic()
        state = {**self.tally.to_dict(), "runs": [*self._before, self._this_run()]}
        self.folder.write(PROGRESS, (json.dumps(state, indent=1) + "\n").encode())

"""`sewkit bulk`: an archive to texts, resumable, on one machine or a cluster."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sewkit.cli.options import BUNDLED, Architecture, BatchSeconds, ComputePoint, Device, Dtype, Json, Model, print_json

if TYPE_CHECKING:
    from sewkit.bulk.estimate import Estimate
    from sewkit.bulk.job import Options
    from sewkit.bulk.tally import Tally

MINUTE = 60.0


def bulk(
    input: Annotated[
        str,
        typer.Argument(help="Folder, manifest (.jsonl, .csv, .parquet), or prefix such as s3://bucket/calls."),
    ],
    output: Annotated[str, typer.Argument(help="Folder or prefix for the shards; the same again goes on.")],
    model: Model = BUNDLED,
    output_format: Annotated[str, typer.Option("--output-format", "-f", help="jsonl or parquet.")] = "jsonl",
    compute: ComputePoint = None,
    hours_budget: Annotated[
        float | None,
        typer.Option(min=0.0, help="Machine hours that the job may take, all its runs together.", metavar="H"),
    ] = None,
    finish_by: Annotated[
        str | None,
        typer.Option(help="When it has to be done: 18:30, 2030-01-31T06:00, or +90m.", metavar="TIME"),
    ] = None,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine",
            help="Transcribe all at --compute (default: the cheapest point), then spend what is left of the budget on "
            "the least confident recordings.",
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(help="Run on a Ray cluster: its address, auto, or local to start one here.", metavar="ADDRESS"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Models that run at the same time; default: one a core or GPU.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of a model.")] = 1,
    shard_recordings: Annotated[int, typer.Option(min=1, help="Recordings in a shard.")] = 500,
    batch_seconds: BatchSeconds = None,
    device: Device = None,
    dtype: Dtype = "float32",
    runtime: Annotated[str, typer.Option(help="auto, or a runtime that sewkit.load knows.")] = "auto",
    lm: Annotated[str | None, typer.Option(help="N-gram language model, an ARPA file or KenLM binary.")] = None,
    architecture: Architecture = None,
    price_per_hour: Annotated[float | None, typer.Option(min=0.0, help="Of a machine, for the cost.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate time and cost from a sample, then stop.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Go on although model or settings changed; rows that are done stay.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Transcribe an archive, once and completely. Killed at any moment, the same command does only what is missing.

    OUTPUT gets shards with one row a recording: text, words, times and confidence, operating point, seconds, model and
    version, or the error; at the end summary.json and summary.png. If any recording failed the exit status is 1.

    With a stochastic model --hours-budget or --finish-by choose the operating point from the speed that is measured as
    the job goes.

    Example:  sewkit bulk s3://bucket/calls texts/ --finish-by 06:00 --dry-run
    """
    from sewkit.bulk.budget import Budget, parse_time
    from sewkit.bulk.job import Options
    from sewkit.bulk.rows import ENCODERS
    from sewkit.bulk.stages import ModelSpec
    from sewkit.errors import UserError

    began = time.time()
    if output_format not in ENCODERS:
        raise UserError(f"output format {output_format!r} is not known; expected {' or '.join(ENCODERS)}")
    options = Options(
        input=input,
        output=output,
        model=ModelSpec(model, device, dtype, runtime, threads, architecture, lm, batch_seconds),
        compute=compute,
        budget=Budget(began, hours_budget, None if finish_by is None else parse_time(finish_by)),
        refine=refine,
        format=output_format,
        workers=workers,
        ray=ray,
        shard_recordings=shard_recordings,
        force=force,
        price_per_hour=price_per_hour,
    )
    if dry_run:
        _dry_run(options, as_json)
        return
    report = _run(options)
    if as_json:
        print_json(report)
    else:
        typer.echo(_said(report, options))
    if report["errors"]:
        raise typer.Exit(1)


def _run(options: Options) -> dict[str, Any]:
    from sewkit.bulk.job import Job
    from sewkit.train.signals import Stopped

    with _Bar() as bar:
        job = Job(options, bar.show)
        if job.recordings.num_repeated:
            print(
                f"sewkit: {job.recordings.num_repeated} recordings are named again; each is done once", file=sys.stderr
            )
        try:
            return job.run()
        except KeyboardInterrupt:
            raise Stopped("stopped; the same command goes on with what is missing") from None


class _Bar:
    """On a terminal a bar with what is known; elsewhere a line each minute."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True)
        self._is_live = console.is_terminal
        self._progress = Progress(
            BarColumn(), TextColumn("{task.description}"), console=console, transient=True, disable=not self._is_live
        )
        self._task = self._progress.add_task("loading the model", total=None)
        self._next_line = time.monotonic() + MINUTE

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def show(self, tally: Tally) -> None:
        """How far the job is."""
        if self._is_live:
            self._progress.update(self._task, total=tally.total, completed=tally.done, description=progress_line(tally))
        elif time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + MINUTE
            print(f"sewkit: {progress_line(tally)}", file=sys.stderr, flush=True)


def progress_line(tally: Tally) -> str:
    """Counts, speed, time left, share of time by stage, errors by kind."""
    left, speed = tally.seconds_left, tally.speed
    said = [
        f"{tally.num_done:,} of {tally.num_recordings:,} recordings",
        f"{tally.audio_seconds / 3600:,.2f} h of audio",
        f"{speed or 0:,.0f} h/h",
        f"{clock(left)} left" if left is not None else "",
        ", ".join(f"{stage} {share:.0%}" for stage, share in tally.shares().items()),
        ", ".join(f"{count:,} {kind}" for kind, count in tally.errors.most_common()),
    ]
    return "  ".join(filter(None, said))


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"


def _said(report: dict[str, Any], options: Options) -> str:
    run = report["run"]
    lines = [
        f"{report['done']:,} recordings, {report['audio_hours']:,.2f} h of audio, {report['words']:,} words in "
        f"{options.output}",
        f"this run: {clock(run['seconds'])}, {run['audio_hours_per_hour'] or 0:,.0f} h of audio per hour, "
        + ", ".join(f"{stage} {share:.0%}" for stage, share in run["stage_share"].items()),
    ]
    if len(report["operating_points"]) > 1:
        hours = ", ".join(f"{hours:,.2f} h at {point}" for point, hours in report["operating_points"].items())
        lines.append(f"operating points: {hours}")
    if report["refined"]:
        lines.append(f"refined: {report['refined']:,} recordings")
    if report["late_seconds"] is not None:
        late = report["late_seconds"]
        lines.append(f"budget: {clock(abs(late))} {'late' if late > 0 else 'left'}")
    if report["cost"] is not None:
        lines.append(f"cost: {report['cost']:,.2f} for {report['machine_hours']:,.2f} machine hours")
    if report["errors"]:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report["errors"].items())
        lines.append(f"errors: {kinds}; their rows say why")
    return "\n".join(lines)


def _dry_run(options: Options, as_json: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from sewkit.bulk.estimate import estimate
    from sewkit.bulk.job import expected_size

    num_workers, num_machines = expected_size(options)
    with Console(stderr=True).status("running a sample"):
        found = estimate(options, num_workers, num_machines)
    if as_json:
        print_json(asdict(found))
    else:
        typer.echo(_estimated(found))


def _estimated(found: Estimate) -> str:
    spread = f" ± {found.audio_hours_error:,.2f}" if found.audio_hours_error else ""
    lines = [
        f"{found.recordings:,} recordings, {found.audio_hours:,.2f}{spread} h of audio; {found.workers} models on "
        f"{found.machines} machine{'s' if found.machines > 1 else ''}"
    ]
    for row in found.points:
        said = [f"{clock(row['hours'] * 3600)}", f"{row['audio_hours_per_hour']:,.0f} h of audio per hour"]
        said += [f"cost {row['cost']:,.2f}"] if row["cost"] is not None else []
        said += [f"WER {row['wer']:.1%}"] if row["wer"] is not None else []
        said += ["in time" if row["in_time"] else "too late"] if row["in_time"] is not None else []
        lines.append(f"  {row['point']}: {', '.join(said)}")
    if found.errors:
        lines.append(f"{found.errors} of {found.sampled} sampled recordings cannot be read")
    return "\n".join(lines)

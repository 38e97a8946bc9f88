"""`sewkit sweep`: every operating point of a stochastic model, measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sewkit.cli.options import Device, Json, Threads, print_json, write_json
from sewkit.cli.reports import DataRoot, Measured, NormalizerName, Resample, Split
from sewkit.errors import UserError
from sewkit.files import expect_file, expect_folder

if TYPE_CHECKING:
    from sewkit.bench.pareto import Names
    from sewkit.curve import Curve


def sweep(
    model: Annotated[
        str,
        typer.Argument(
            help="A stochastic model; with --time-only also a published size such as sew-small, made stochastic "
            "(random weights)."
        ),
    ],
    data: Annotated[
        list[str] | None, typer.Argument(help="JSON-lines manifests to measure on; with --time-only, more models.")
    ] = None,
    time_only: Annotated[
        bool, typer.Option("--time-only", help="Measure nothing but the time of a forward pass over a clip of noise.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="With --time-only, length of the clip.")] = 10.0,
    runs: Annotated[int, typer.Option(min=1, help="With --time-only, counted runs, after one warm-up.")] = 5,
    store: Annotated[
        bool, typer.Option("--store", help="Keep the curve in the model's folder, where names of points go by it.")
    ] = False,
    refine: Annotated[
        bool, typer.Option("--refine", help="Also two passes: at cheap points, and what those doubt at another.")
    ] = False,
    second: Annotated[
        str | None, typer.Option(help="With --refine, the point of the second pass; default: full.", metavar="POINT")
    ] = None,
    split: Split = None,
    data_root: DataRoot = None,
    normalizer: NormalizerName = None,
    resample: Resample = None,
    device: Device = None,
    threads: Threads = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for sweep.csv, sweep.json, pareto.png and pareto.svg; with --time-only a JSON file.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure every operating point of a model: errors with intervals, time, real-time factor, MACs and memory.

    Each clip is transcribed at all points in turn, alone in its batch. Points on the Pareto front are marked: none is
    both faster and better. `full` computes the most; `fast` is the fastest; `balanced` is the fastest that makes at
    most a twentieth more errors than the most accurate. With --store the curve goes with the model, and --compute
    balanced means that point; without, names are by the curve that the model has, if it has one.

    With --refine two passes are measured beside, at thresholds that these data say (or, without --store, at those
    stored with the model); sewkit transcribe --refine uses the fastest that make no more errors than --second alone.

    Example:  sewkit sweep runs/mine/model dev.jsonl --threads 1 --store -o sweep

    Example:  sewkit sweep sew-small sew-tiny --time-only --seconds 10 --threads 1
    """
    if time_only:
        if store or refine or second or split or data_root or normalizer or resample:
            raise UserError("--time-only has no data: leave out --store and the options of data")
        _sweep_times([model, *(data or [])], seconds, runs, device, threads, output, as_json)
        return
    if second and not refine:
        raise UserError("--second is the point of the second of two passes: give --refine beside")
    if not data:
        raise UserError("sweep measures errors on data: name a manifest after the model, or give --time-only")
    measured = Measured(split, data_root, normalizer, resample)
    with measured.status():
        manifests = [Path(name) for name in data]
        _sweep_data(model, manifests, measured, device, threads, output, store, refine, second, as_json)


def _sweep_data(
    model: str,
    manifests: list[Path],
    measured: Measured,
    device: str | None,
    threads: int | None,
    output: Path | None,
    store: bool,
    refine: bool,
    second: str | None,
    as_json: bool,
) -> None:
    from sewkit.bench.pareto import facts, require_plot, write_sweep
    from sewkit.bench.passes import two_passes
    from sewkit.bench.sweep import sweep
    from sewkit.cli.progress import seconds_of_audio
    from sewkit.evaluate.evaluation import file_sha256
    from sewkit.recognizer import load

    folder = Path(model).expanduser()
    if store and not (folder / "config.json").is_file():
        raise UserError(f"--store writes to the model's folder; {model} is none, make one: sewkit convert")
    if store:
        expect_folder(folder)
    if output is not None:
        require_plot()
        expect_folder(output)
    asr = load(model, device=device, threads=threads)
    rows = [row for manifest in manifests for row in measured.rows(manifest)]
    passes = []
    if refine:
        known = None if store else asr.loaded.curve
        with seconds_of_audio(sum(row.duration for row in rows), "looking for doubt in") as on_progress:
            passes = two_passes(asr, rows, second, known, on_progress)
    with seconds_of_audio(sum(row.duration for row in rows), "sweeping") as on_progress:
        curve = sweep(
            asr,
            rows,
            {manifest.stem: file_sha256(manifest) for manifest in manifests},
            normalizer=measured.normalizer,
            resampled=measured.resampled,
            on_progress=on_progress,
            on_error=measured.report,
            passes=passes,
        )
    stored = None if store else asr.loaded.curve
    names = curve.names if stored is None else stored.names
    print_json(facts(curve, names)) if as_json else _print_curve(curve, names)
    if store:
        curve.write(folder)
        print(f"stored with {model}", file=sys.stderr)
    if output is not None:
        print(f"wrote {', '.join(map(str, write_sweep(output, curve, names)))}", file=sys.stderr)


def _sweep_times(
    models: list[str],
    seconds: float,
    runs: int,
    device: str | None,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    import torch

    from sewkit.bench.grid import time_grid
    from sewkit.bench.timing import environment
    from sewkit.runtime.pytorch import pick_device

    if output is not None:
        expect_file(output)
    if threads is not None:
        torch.set_num_threads(threads)
    where = pick_device(device)
    figures: dict[str, Any] = {
        "environment": environment(),
        "device": str(where),
        "clip_seconds": seconds,
        "models": {},
    }
    for name in models:
        figures["models"][name] = rows = time_grid(_stochastic(name).to(where), seconds, runs)
        if not as_json:
            _print_times(name, rows)
    if as_json:
        print_json(figures)
    if output is not None:
        write_json(output, figures)


def _stochastic(name: str) -> Any:
    from sewkit.checkpoint import load_model
    from sewkit.config import PUBLISHED, Stochastic
    from sewkit.model import build_model

    if name in PUBLISHED:
        return build_model(PUBLISHED[name].replace(**Stochastic().model_dump())).eval()
    return load_model(name).model


def _print_times(name: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name, title_justify="left")
    table.add_column("operating point", no_wrap=True)
    for column in ("MMAC/s", "ms", "speed-up", "extractor"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["point"],
            f"{row['macs_per_second'] / 1e6:,.0f}",
            f"{row['seconds']['median'] * 1e3:,.0f}",
            f"{row['times_as_fast']:.2f}",
            f"{row['extractor_share']:.0%}",
        )
    Console().print(table)


def _print_curve(curve: Curve, names: Names) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1))
    for column in ("", "squeeze", "query", "kv", "WER", "interval", "ms", "p95", "RTF", "MMAC/s", "MiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for point in curve.points:
        table.add_row(
            "*" if point in curve.front else "",
            *map(str, (point.compute.squeeze, point.compute.query_pool, point.compute.kv_pool)),
            f"{point.wer:.1%}",
            f"{point.wer_low:.1%}-{point.wer_high:.1%}",
            f"{1e3 * point.seconds_median:,.1f}",
            f"{1e3 * point.seconds_p95:,.1f}",
            f"{point.real_time_factor:.4f}",
            f"{point.macs_per_second / 1e6:,.0f}",
            "" if point.peak_memory_mib is None else f"{point.peak_memory_mib:,.0f}",
        )
    typer.echo(f"{curve.model} on {', '.join(curve.data)}")
    Console(width=max(Console().width, 100)).print(table)
    typer.echo(
        f"* on the Pareto front; {curve.num_clips} clips, {curve.num_words} words, {curve.audio_seconds:.0f} s; "
        f"{curve.interval}; device {curve.device}, threads {curve.environment['threads']}"
    )
    for name, compute in names.items():
        typer.echo(f"{name}: {compute}")
    if curve.two_passes:
        _print_passes(curve)


def _print_passes(curve: Curve) -> None:
    """The fastest over all clips first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 1))
    for column in ("", "first pass", "doubt", "again", "WER", "interval", "ms", "p95", "RTF"):
        table.add_column(column, justify="left" if column == "first pass" else "right", no_wrap=True)
    for one in sorted(curve.two_passes, key=lambda one: one.real_time_factor):
        table.add_row(
            "+" if curve.beats_points(one) else "",
            one.point,
            f"{one.threshold:.3f}",
            f"{one.heard_again:.0%}",
            f"{one.wer:.1%}",
            f"{one.wer_low:.1%}-{one.wer_high:.1%}",
            f"{1e3 * one.seconds_median:,.1f}",
            f"{1e3 * one.seconds_p95:,.1f}",
            f"{one.real_time_factor:.4f}",
        )
    typer.echo(f"two passes, the second at {curve.two_passes[0].second}")
    Console(width=max(Console().width, 100)).print(table)
    chosen = curve.refined()
    assert chosen is not None
    typer.echo(
        f"+ no single point has as low an RTF and as few errors; --refine: {chosen.point}, again from doubt "
        f"{chosen.threshold:.3f} on"
    )

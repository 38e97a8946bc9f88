"""`sewkit bench`: speed beside peers', on the same weights and sound, in the same run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sewkit.cli.bench_tables import hardware, print_speed, print_stages, print_throughput
from sewkit.cli.options import Device, Json, Threads, print_json, write_json
from sewkit.errors import UserError
from sewkit.files import expect_file, expect_folder


class _SpeedUnlessNamed(TyperGroup):
    """`sewkit bench MODELS` is short for `sewkit bench speed MODELS`, with --audio for `sewkit bench transcribe`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            has_audio = any(arg == "--audio" or arg.startswith("--audio=") for arg in args)
            args = ["transcribe" if has_audio else "speed", *args]
        return super().parse_args(ctx, args)


bench = typer.Typer(
    name="bench",
    cls=_SpeedUnlessNamed,
    help="Time sewkit beside its peers: runtimes (sewkit bench MODELS), recordings, stages, pre-training.",
    no_args_is_help=True,
)

STAGE_DTYPES = ("float32", "bfloat16", "float16", "int8")
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Also write the figures to this JSON file.")]


@bench.command()
def transcribe(
    models: Annotated[list[str], typer.Argument(help="Models, or published sizes such as sew-tiny (random weights).")],
    audio: Annotated[list[str], typer.Option("--audio", help="Files, folders or patterns to transcribe.")],
    max_clips: Annotated[int, typer.Option(min=1, help="Use the first so many recordings, by name.")] = 8,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs, after one warm-up.")] = 5,
    threads: Threads = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Time sewkit against transformers' pipeline: same weights, same recordings, run in turn.

    Example:  sewkit bench w2v2-base sew-tiny sew-d-tiny --audio examples --runs 5
    """
    import torch

    from sewkit.audio import load_audio
    from sewkit.bench.peers import compare_with_transformers
    from sewkit.bench.timing import environment
    from sewkit.cli.sources import find_audio

    if output is not None:
        expect_file(output)
    if threads is not None:
        torch.set_num_threads(threads)
    clips = [load_audio(path) for path in find_audio(audio, on_error=_fail)[:max_clips]]
    figures: dict[str, Any] = {"environment": environment(), "rows": []}
    for model in models:
        rows = compare_with_transformers(model, clips, runs)
        figures["rows"] += rows
        if not as_json:
            for row in rows:
                typer.echo(_line(row))
    _hand_over(figures, output, as_json)


@bench.command()
def speed(
    models: Annotated[
        list[str], typer.Argument(help="Models, or published sizes such as sew-tiny (random weights, no download).")
    ],
    system: Annotated[
        list[str] | None,
        typer.Option("--system", help="Only systems that match, such as 'sewkit*' or '*fp32'; may be repeated."),
    ] = None,
    seconds: Annotated[list[float] | None, typer.Option(min=0.1, help="Length of a clip; may be repeated.")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Clips in a batch; may be repeated.")] = None,
    compute: Annotated[
        list[str] | None,
        typer.Option(help="Operating point, such as squeeze=4,kv_pool=2; may be repeated.", metavar="POINT"),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs of each, in turn, after one warm-up.")] = 10,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Whether to measure peak memory, each in a process of its own.")
    ] = True,
    device: Device = None,
    threads: Threads = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for speed.json, speed.csv, speed.png and speed.svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time sewkit's runtimes and their peers on the same weights, in turn, in one run.

    Peers: transformers with eager and SDPA attention, compiled or not; onnxruntime and OpenVINO on transformers' own
    export; CTranslate2. What cannot run is skipped with a line. Of each: median and spread, real-time factor, peak
    memory, and the share of the rate at which this machine multiplies matrices, measured in between at the same
    precision and threads. Sound is synthetic, and weights of published sizes are random: neither changes the time.

    Example:  sewkit bench speed sew-tiny sew-d-tiny w2v2-base --seconds 10 --threads 2 -o speed

    Example:  sewkit bench speed sew-small --compute squeeze=1 --compute squeeze=4 --system 'sewkit torch fp32'
    """
    from dataclasses import asdict

    import torch

    from sewkit.bench.figures import write_report
    from sewkit.bench.pareto import require_plot
    from sewkit.bench.suite import Plan, measure
    from sewkit.bench.systems import choose
    from sewkit.cli.progress import counted
    from sewkit.runtime.pytorch import pick_device

    if threads is not None:
        torch.set_num_threads(threads)
    if output is not None:
        require_plot()
        expect_folder(output)
    plan = Plan(
        models,
        choose(system or ["*"]),
        seconds or [10.0],
        batch or [1],
        compute or [None],
        runs,
        str(pick_device(device)),
        memory,
    )
    with counted("measuring", "calls", plan.num_calls) as on_calls:
        report = measure(plan, on_calls, lambda line: print(line, file=sys.stderr))
    if as_json:
        print_json(asdict(report))
    else:
        print_speed(report)
    if output is not None:
        _say_written(write_report(output, report))


@bench.command()
def stages(
    models: Annotated[list[str], typer.Argument(help="Models, or published sizes (random weights).")],
    seconds: Annotated[float, typer.Option(min=0.1, max=30.0, help="Length of the clip.")] = 10.0,
    compute: Annotated[
        list[str] | None,
        typer.Option(help="Operating point, such as squeeze=4,kv_pool=2; may be repeated.", metavar="POINT"),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Counted runs, after one warm-up.")] = 10,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16 in PyTorch; int8: the export for OpenVINO.")
    ] = "float32",
    threads: Threads = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for stages.json, stages.csv and floor.csv.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time each stage of a transcription, and how near it is to its floor on this machine.

    Stages: read, features, projection, squeeze, encoder, up-sampling, head, decode. The floor of a stage is the sum of
    micro-benchmarks of exactly its shapes, each in its fastest way: matrix products, convolutions, attention, and the
    passes over frames between them. Those of int8 are PyTorch's too, with attention in half precision.

    Example:  sewkit bench stages sew-tiny sew-d-tiny w2v2-base --threads 2 -o stages
    """
    import tempfile

    import torch

    from sewkit.bench.exports import of_sewkit
    from sewkit.bench.figures import write_stages
    from sewkit.bench.stages import measure_stages, num_calls
    from sewkit.bench.subject import prepare
    from sewkit.bench.timing import environment
    from sewkit.cli.progress import counted
    from sewkit.recognizer import load

    if dtype not in STAGE_DTYPES:
        raise UserError(f"--dtype {dtype!r}: expected one of {', '.join(STAGE_DTYPES)}")
    if output is not None:
        expect_folder(output)
    if threads is not None:
        torch.set_num_threads(threads)
    reports = []
    points: list[str | None] = [*compute] if compute else [None]
    for model in models:
        for point in points:
            with tempfile.TemporaryDirectory(prefix="sewkit-bench-") as folder:
                subject = prepare(model, point, Path(folder))
                if dtype == "int8":
                    asr = load(of_sewkit(subject, "openvino", dtype), device="cpu")
                else:
                    asr = load(subject.model, device="cpu", dtype=dtype, runtime="torch")
                asr.name = model
                total = num_calls(asr, seconds, subject.point, runs)
                with counted(f"measuring {model}", "calls", total) as on_calls:
                    reports.append(measure_stages(asr, seconds, subject.point, runs, lambda: on_calls(1)))
            if not as_json:
                print_stages(reports[-1])
    where = environment()
    print_json({"environment": where, "models": reports}) if as_json else typer.echo(hardware(where))
    if output is not None:
        _say_written(write_stages(output, reports, where))


@bench.command()
def throughput(
    model: Annotated[str, typer.Argument(help="A model, or a published size such as sew-tiny (random weights).")],
    audio: Annotated[list[str], typer.Option("--audio", help="Files, folders, patterns, or JSON-lines manifests.")],
    clips: Annotated[int, typer.Option(min=1, help="Use so many recordings, taken evenly from all.")] = 200,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="Runtime and precision, such as torch:fp32 or openvino:int8; may be repeated."),
    ] = None,
    workers: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Batches side by side; may be repeated. Default: 1, and all threads."),
    ] = None,
    batch_seconds: Annotated[
        list[float] | None, typer.Option(min=1.0, help="Sound that shares a batch; may be repeated.")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Passes of each way over the recordings, in turn.")] = 3,
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Whether to run transformers' pipeline, too.")] = True,
    peer_precision: Annotated[str, typer.Option(help="The pipeline's: fp32 or bf16.", metavar="PRECISION")] = "fp32",
    in_memory: Annotated[
        bool, typer.Option("--in-memory", help="Read all recordings first, and time what is done with their sound.")
    ] = False,
    device: Device = None,
    threads: Threads = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for throughput.json and throughput.csv.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time many recordings of mixed length, from files to words, in several ways beside transformers' pipeline.

    The pipeline runs at its best batch size. Of each way: how busy it keeps the cores, whether memory grows, and how
    many transcripts differ from those of one recording at a time.

    Example:  sewkit bench throughput sew-tiny --audio data/manifest.jsonl --clips 200 --threads 2 -o throughput
    """
    from itertools import product

    import torch

    from sewkit.bench.figures import write_throughput
    from sewkit.bench.throughput import Way, measure_throughput
    from sewkit.cli.progress import counted
    from sewkit.runtime.pytorch import pick_device

    if peer_precision not in ("fp32", "bf16"):
        raise UserError(f"--peer-precision {peer_precision!r}: expected fp32 or bf16")
    if output is not None:
        expect_folder(output)
    if threads is not None:
        torch.set_num_threads(threads)
    paths, on = _recordings(audio, clips), str(pick_device(device))
    side_by_side: list[int] = workers or sorted({1, torch.get_num_threads() if on == "cpu" else 2})
    lengths: list[float | None] = [*batch_seconds] if batch_seconds else [None]
    ways = [
        Way(*_runtime_and_precision(name), count, length)
        for name, count, length in product(runtime or ["torch:fp32", "openvino:int8"], side_by_side, lengths)
    ]
    passes = len(ways) * runs + (runs + 1 if peer else 0) + 1
    with counted("measuring", "passes", passes) as on_passes:
        figures = measure_throughput(
            model,
            paths,
            ways,
            runs,
            peer_precision if peer else None,
            on,
            in_memory,
            on_pass=lambda name: on_passes(1),
            on_skip=lambda line: print(line, file=sys.stderr),
        )
    print_json(figures) if as_json else print_throughput(figures)
    if output is not None:
        _say_written(write_throughput(output, figures))


def _recordings(audio: list[str], count: int) -> list[Path]:
    """Whole recordings of files and manifests, evenly over all of them."""
    from sewkit.cli.sources import find_audio
    from sewkit.data.manifest import read_manifest

    found: list[Path] = []
    for name in audio:
        if name.endswith(".jsonl"):
            parts = [part for row in read_manifest(Path(name)) for part in row.parts]
            found += [part.audio for part in parts if part.seconds is None and part.size is None]
        else:
            found += map(Path, find_audio([name], on_error=_fail))
    found = list(dict.fromkeys(found))
    return [found[index * len(found) // count] for index in range(count)] if len(found) > count else found


def _runtime_and_precision(name: str) -> tuple[str, str]:
    runtime, _, precision = name.partition(":")
    if precision not in ("fp32", "bf16", "int8"):
        raise UserError(f"runtime {name!r}: expected one with its precision, such as torch:fp32 or openvino:int8")
    return runtime, precision


@bench.command()
def pretrain(
    rows: Annotated[int | None, typer.Option(min=2, help="Crops in the batch; default: 2, on a GPU 5.")] = None,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of a crop; the published recipes have 15.625.")] = 15.625,
    runs: Annotated[int, typer.Option(min=1, help="Counted steps of each, after one warm-up.")] = 5,
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Whether to run transformers, too.")] = True,
    threads: Threads = None,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Time an optimiser step of pre-training, transformers' and ours in turn, and show where the time of ours goes.

    W2V2-base against transformers' W2V2-base, SEW-tiny against W2V2-base; on a GPU in bfloat16, on a CPU in float32.

    Example:  sewkit bench pretrain --runs 5 --output bench-pretrain.json
    """
    import torch

    from sewkit.bench.pretrain import BASE, TINY, break_down, compare_steps
    from sewkit.bench.timing import environment

    if output is not None:
        expect_file(output)
    if threads is not None:
        torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = rows or (5 if device.type == "cuda" else 2)
    precision: Any = "bf16" if device.type == "cuda" else "fp32"
    figures: dict[str, Any] = {
        "environment": environment(),
        "steps": compare_steps(rows, seconds, runs, device, precision, peer),
        "stages": [break_down(name, rows, seconds, runs, device, precision) for name in (BASE, TINY)],
    }
    if not as_json:
        _print_steps(figures)
    _hand_over(figures, output, as_json)


def _print_steps(figures: dict[str, Any]) -> None:
    steps = figures["steps"]
    typer.echo(f"one step on {steps['rows']} crops of {steps['crop_seconds']} s, {steps['precision']}, median seconds")
    for name, seconds in steps["seconds"].items():
        typer.echo(f"  {name:<28} {seconds['median']:8.3f}  [{seconds['min']:.3f}, {seconds['max']:.3f}]")
    if steps["w2v2_base_against_transformers"] is not None:
        typer.echo(f"  W2V2-base: {steps['w2v2_base_against_transformers']:.2f} times as fast as transformers")
    typer.echo(f"  SEW-tiny: {steps['sew_tiny_against_w2v2_base']:.2f} times as fast as W2V2-base")
    for stages in figures["stages"]:
        typer.echo(
            f"{stages['model']} in the training loop, forward and backward; outside: {stages['outside_share']:.1%}"
        )
        for name, value in sorted(stages["seconds"].items(), key=lambda item: -item[1]):
            typer.echo(f"  {name:<28} {value:8.3f}  {value / sum(stages['seconds'].values()):6.1%}")


def _hand_over(figures: dict[str, Any], output: Path | None, as_json: bool) -> None:
    if as_json:
        print_json(figures)
    if output is not None:
        write_json(output, figures)


def _say_written(paths: Iterable[Path]) -> None:
    print(f"wrote {', '.join(map(str, paths))}", file=sys.stderr)


def _fail(error: Exception) -> None:
    raise error


def _line(row: dict[str, Any]) -> str:
    ours, theirs = row["sewkit"]["median"], row["transformers"]["median"]
    return (
        f"{row['model']:<16} {row['way']:<8} {row['clips']} clips, {row['audio_seconds']:.1f} s of audio: "
        f"sewkit {ours:.3f} s, transformers {theirs:.3f} s, {row['times_faster']:.2f} times as fast"
    )

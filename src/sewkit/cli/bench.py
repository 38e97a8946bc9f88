"""`sewkit bench`: speed beside transformers, on the same weights and sound, in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sewkit.cli.options import Json, Threads, print_json


class _TranscribeUnlessNamed(TyperGroup):
    """`sewkit bench MODELS` is short for `sewkit bench transcribe MODELS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["transcribe", *args]
        return super().parse_args(ctx, args)


bench = typer.Typer(
    name="bench",
    cls=_TranscribeUnlessNamed,
    help="Time sewkit beside transformers: transcription (sewkit bench MODELS), or pre-training.",
    no_args_is_help=True,
)

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
    import json

    if as_json:
        print_json(figures)
    if output is not None:
        output.write_text(json.dumps(figures, indent=1) + "\n")


def _fail(error: Exception) -> None:
    raise error


def _line(row: dict[str, Any]) -> str:
    ours, theirs = row["sewkit"]["median"], row["transformers"]["median"]
    return (
        f"{row['model']:<16} {row['way']:<8} {row['clips']} clips, {row['audio_seconds']:.1f} s of audio: "
        f"sewkit {ours:.3f} s, transformers {theirs:.3f} s, {row['times_faster']:.2f} times as fast"
    )

"""`sewkit plan`: the operating point that keeps a latency on this device."""

from __future__ import annotations

from typing import Annotated

import typer

from sewkit.cli.options import BUNDLED, Device, Dtype, Json, Model, Threads, print_json


def plan(
    latency_ms: Annotated[float, typer.Option(min=0.0, help="Time that a clip may take, in milliseconds.")],
    model: Model = BUNDLED,
    audio_seconds: Annotated[float, typer.Option(help="Length of the clip, at most 30.")] = 10.0,
    quantile: Annotated[float, typer.Option(help="Share of the clips that must keep the time.")] = 0.95,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each point for the calibration, after one warm-up.")] = 20,
    device: Device = None,
    dtype: Dtype = "float32",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Say at which operating point a clip keeps a latency on this device, with the time and the errors to expect.

    Times are of clips one at a time, from samples to words. The first call calibrates the device, for this model,
    these threads and about this length; the times are kept in the user's cache. Errors are those that sewkit sweep
    --store measured; without them the point that computes most is named. If nothing fits, the nearest is named and
    the exit status is 1.

    Example:  sewkit plan -m runs/mine/model --latency-ms 80 --audio-seconds 10 --quantile 0.95
    """
    from rich.console import Console

    from sewkit.bench.plan import plan as make_plan
    from sewkit.recognizer import load

    asr = load(model, device=device, dtype=dtype, threads=threads)
    with Console(stderr=True).status("calibrating this device"):
        found = make_plan(asr, latency_ms / 1e3, audio_seconds, quantile, runs)
    if as_json:
        print_json(found.to_dict())
        return
    typer.echo(found.compute)
    typer.echo(
        f"  {1e3 * found.median:.1f} ms for {audio_seconds:g} s of audio, {1e3 * found.at_quantile:.1f} ms at quantile "
        f"{quantile:g}"
    )
    curve, rates = asr.loaded.curve, found.measured
    if curve is None or rates is None:
        typer.echo("  errors not known, chosen by MACs: this model has no measured curve, see sewkit sweep --store")
    else:
        typer.echo(
            f"  WER {rates.wer:.1%}, {rates.wer_low:.1%} to {rates.wer_high:.1%} ({curve.interval}), as measured on "
            f"{', '.join(curve.data)}"
        )

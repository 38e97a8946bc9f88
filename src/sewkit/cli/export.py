"""`sewkit export`: a model for OpenVINO or onnxruntime, written only if it is faster and as good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sewkit.cli.options import Architecture, Json, Threads, print_json
from sewkit.cli.reports import DataRoot
from sewkit.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from sewkit.bench.gate import Gate, GateClip
    from sewkit.checkpoint.exported import RuntimeName
    from sewkit.data.manifest import Utterance

MAX_CALIBRATION_SECONDS = 15.0
"""Longer recordings are not calibrated with: they cost memory and tell nothing more."""


def export(
    model: Annotated[str, typer.Argument(help="Hub id, folder, original .pt file, or the bundled model's name.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write; new or empty.")],
    runtime: Annotated[str, typer.Option(help="openvino or onnx.")] = "openvino",
    int8: Annotated[bool, typer.Option("--int8", help="Quantise; for openvino with speech of --calibrate.")] = False,
    portable: Annotated[
        bool, typer.Option("--portable", help="int8 for processors without VNNI too: weights of 7 bits.")
    ] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="Manifest of real speech like what the model will hear; never test data.")
    ] = None,
    calibration_clips: Annotated[
        int, typer.Option(min=1, help="Recordings to calibrate with; without --gate-data at most half.")
    ] = 64,
    gate_data: Annotated[
        list[Path] | None,
        typer.Option(help="Manifests to compare on; default: recordings of --calibrate that are not calibrated with."),
    ] = None,
    gate_clips: Annotated[int, typer.Option(min=1, help="Recordings to compare on, of each manifest.")] = 100,
    data_root: DataRoot = None,
    max_wer_loss: Annotated[float, typer.Option(min=0.0, help="Points of word error rate that may be lost.")] = 0.3,
    force: Annotated[bool, typer.Option("--force", help="Write the model even if it does not pass the gate.")] = False,
    compute: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a stochastic model, an operating point to keep; the smallest grid with all of these is written. "
            "Default: all points.",
            metavar="POINT",
        ),
    ] = None,
    architecture: Architecture = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Export a model, and compare it with the one it was made from: outputs, word error rate and speed.

    A model that is slower than PyTorch's, or loses more than --max-wer-loss, is not written, unless with --force. A
    stochastic model keeps all its operating points over one copy of the weights; compared are full, balanced and fast.

    On a processor without VNNI, int8 weights have 7 bits, which any processor runs. What was exported with 8 is refused
    where it would overflow.

    Use it as any model: sewkit transcribe call.mp3 --model FOLDER, or sewkit.load(FOLDER).

    Example:  sewkit export sew-words words-int8 --int8 --calibrate dev.jsonl --gate-data test.jsonl
    """
    import torch

    from sewkit.bench.gate import export_through_gate
    from sewkit.checkpoint import load_model
    from sewkit.cli.progress import counted
    from sewkit.compute import operating_points
    from sewkit.runtime.export import grid_of

    kind = _runtime(runtime)
    if portable and not int8:
        raise UserError("--portable is about int8: give --int8 too, or leave it out")
    if int8 and calibrate is None and kind == "openvino":
        raise UserError("--int8 for openvino is calibrated on real speech: name a manifest with --calibrate")
    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_model(model, architecture)
    rows = _rows([calibrate], data_root) if calibrate else []
    most = len(rows) if gate_data else max(1, len(rows) // 2)  # the gate needs more than what happens to be left
    calibration, held_out = _split(rows, min(calibration_clips, most) if int8 else 0)
    heard = _rows(gate_data, data_root, gate_clips) if gate_data else held_out[:gate_clips]
    points = None if compute is None else [loaded.resolve(point) for point in compute]
    grid = operating_points(loaded.model.config if points is None else grid_of(loaded.model.config, points))
    with counted("exporting", "points, comparison included", len(grid) + 1) as on_progress:
        gate = export_through_gate(
            loaded,
            folder,
            kind,
            _gate_clips(heard),
            int8_clips=_waveforms(calibration) if int8 else None,
            portable=portable,
            points=points,
            max_wer_loss=max_wer_loss / 100,
            force=force,
            on_gate=None if as_json else _print,
            on_progress=on_progress,
        )
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    if as_json:
        print_json({"folder": str(folder), "runtime": kind, "int8": int8, "megabytes": megabytes, **gate.to_dict()})
    else:
        typer.echo(f"wrote {folder}, {megabytes:.1f} MB")


def _runtime(name: str) -> RuntimeName:
    match name:
        case "openvino" | "onnx":
            return name
    raise UserError(f"--runtime {name} is not known; expected openvino or onnx")


def _rows(manifests: list[Path], data_root: Path | None, count: int | None = None) -> list[Utterance]:
    """Of each manifest so many rows, drawn once and for all."""
    import numpy as np

    from sewkit.data.manifest import read_manifest

    chosen: list[Utterance] = []
    for manifest in manifests:
        rows = read_manifest(manifest, root=data_root)
        order = np.random.default_rng(0).permutation(len(rows))
        chosen += [rows[index] for index in order[:count]]
    return chosen


def _split(rows: list[Utterance], count: int) -> tuple[list[Utterance], list[Utterance]]:
    """The first `count` rows that are not too long to calibrate with, and all others."""
    taken = [index for index, row in enumerate(rows) if row.duration <= MAX_CALIBRATION_SECONDS][:count]
    return [rows[index] for index in taken], [row for index, row in enumerate(rows) if index not in set(taken)]


def _waveforms(rows: list[Utterance]) -> list[np.ndarray]:
    from sewkit.data.manifest import load_utterance

    return [load_utterance(row) for row in rows]


def _gate_clips(rows: list[Utterance]) -> list[GateClip]:
    """What the rows hold; without any, the clip that comes with the package, whose text is not counted."""
    from importlib.resources import as_file, files

    from sewkit.audio import load_audio
    from sewkit.bench.gate import GateClip
    from sewkit.data.manifest import load_utterance
    from sewkit.doctor import CLIP

    if rows:
        return [GateClip(waveform=load_utterance(row), text=row.text) for row in rows]
    with as_file(files("sewkit") / "clips" / CLIP) as path:
        return [GateClip(waveform=load_audio(path))]


def _print(gate: Gate) -> None:
    for point in gate.points:
        typer.echo(point)
    typer.echo(f"before: PyTorch, float32; {gate.num_clips} clips, {gate.audio_seconds:.0f} s; times are of 10 s")

"""Export published sizes (random weights) and the bundled model to every runtime, and print the gate of each.

    python recipes/speed/export_all.py --data data --output exports.json

Calibrated on real speech of the training split of data/speech/librispeech-excerpt. The bundled model is compared on its
test lists, its full, balanced and fast points; the others on a few sentences, where only times and the difference of
outputs mean something. Every model is written, also where the gate would refuse it: "problems" says why. Sizes are of
the whole folder; "size_ratio" is against the same export with one operating point.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sewkit.bench.gate import MAX_WER_LOSS, Gate, GateClip, export_through_gate
from sewkit.bench.timing import environment
from sewkit.checkpoint import LoadedModel, load_model
from sewkit.checkpoint.exported import RuntimeName
from sewkit.compute import operating_points
from sewkit.config import PUBLISHED
from sewkit.data.manifest import load_utterance, read_manifest
from sewkit.files import replacing
from sewkit.model import build_model
from sewkit.text import Alphabet

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = "sew-words"
EXPORTS: tuple[tuple[RuntimeName, bool], ...] = (
    ("openvino", False),
    ("openvino", True),
    ("onnx", False),
    ("onnx", True),
)


def main() -> None:
    """See the head of this file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=["sew-tiny", "sew-d-tiny", "w2v2-base", BUNDLED])
    options.add_argument("--data", type=Path, default=ROOT / "data", help="folder with speech/")
    options.add_argument("--calibration-clips", type=int, default=48)
    options.add_argument("--gate-clips", type=int, default=10_000, help="of each test list of the bundled model")
    options.add_argument("--runs", type=int, default=11)
    options.add_argument("--threads", type=int)
    options.add_argument("--output", type=Path, default=Path("exports.json"))
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    figures: dict[str, Any] = {"environment": environment(), "exports": []}
    for name in chosen.models:
        for row, gate in exports(name, chosen):
            figures["exports"].append(row)
            print(line(row, gate), flush=True)
            with replacing(chosen.output) as draft:
                draft.write_text(json.dumps(figures, indent=1) + "\n")


def exports(name: str, chosen: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Gate]]:
    """A row for each runtime and precision."""
    speech = read_manifest(chosen.data / "speech" / "librispeech-excerpt" / "manifest.jsonl", split="train")
    calibration = [load_utterance(row) for row in speech[: chosen.calibration_clips]]
    clips = [GateClip(waveform=load_utterance(row)) for row in speech[-3:]]
    if name == BUNDLED:
        lists = sorted((ROOT / "recipes" / "bundled").glob("test-*.jsonl"))
        rows = [row for path in lists for row in read_manifest(path, root=chosen.data)[: chosen.gate_clips]]
        clips = [GateClip(waveform=load_utterance(row), text=row.text) for row in rows]
    for runtime, int8 in EXPORTS:
        loaded = load(name)
        points = operating_points(loaded.model.config)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            gate = export_through_gate(
                loaded,
                Path(folder) / "all",
                runtime,
                clips,
                int8_clips=calibration if int8 else None,
                force=True,
                runs=chosen.runs,
            )
            row = {
                "model": name,
                "runtime": runtime,
                "precision": "int8" if int8 else "float32",
                "seconds": time.perf_counter() - start,
                "megabytes": megabytes(Path(folder) / "all"),
                "problems": gate.problems(MAX_WER_LOSS),
                **gate.to_dict(),
            }
            if len(points) > 1:
                export_through_gate(
                    loaded,
                    Path(folder) / "one",
                    runtime,
                    clips[:1],
                    int8_clips=calibration[:4] if int8 else None,
                    points=points[-1:],
                    force=True,
                    runs=1,
                )
                row["size_ratio"] = row["megabytes"] / megabytes(Path(folder) / "one")
        yield row, gate


def load(name: str) -> LoadedModel:
    """A model with weights; a published size gets random ones."""
    if name not in PUBLISHED:
        return load_model(name)
    alphabet = Alphabet.english()
    torch.manual_seed(0)
    return LoadedModel(build_model(PUBLISHED[name].replace(vocab_size=len(alphabet))).eval(), alphabet)


def megabytes(folder: Path) -> float:
    """Of all files."""
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def line(row: dict[str, Any], gate: Gate) -> str:
    """For people."""
    ratio = f", {row['size_ratio']:.2f} times one point's" if "size_ratio" in row else ""
    title = f"{row['model']} {row['runtime']} {row['precision']}: {row['megabytes']:.1f} MB{ratio}"
    return "\n".join(
        [
            title,
            *(f"  {point}" for point in gate.points),
            *(f"  would be refused: {problem}" for problem in row["problems"]),
        ]
    )


if __name__ == "__main__":
    main()

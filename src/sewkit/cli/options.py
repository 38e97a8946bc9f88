"""Options that several verbs share, and output for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

BUNDLED = "sew-words"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Hub id, folder, original .pt file, or the bundled model's name.")
]
Architecture = Annotated[
    str | None,
    typer.Option(
        help="For an original fine-tuned file that lacks its architecture: a published name or a file.",
        metavar="NAME|FILE",
    ),
]
ComputePoint = Annotated[
    str | None,
    typer.Option(
        "--compute",
        help="Operating point of a stochastic model: full, balanced, fast, or such as squeeze=4,kv_pool=2; "
        "default: full.",
        metavar="POINT",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps; default: a GPU where there is one.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all cores.")]
Audio = Annotated[list[str], typer.Argument(help="Files, folders, glob patterns, or - for standard input.")]
AudioUnlessLive = Annotated[
    list[str] | None,
    typer.Argument(help="Files, folders, glob patterns, or - for standard input; nothing with --live."),
]
Segmented = Annotated[
    bool, typer.Option("--segment", help="Cut recordings in their pauses, as --live does, not into overlapping chunks.")
]
Refine = Annotated[
    bool,
    typer.Option(
        "--refine",
        help="Hear again at full compute what a cheap operating point is unsure of; sewkit sweep --refine --store "
        "calibrates it.",
    ),
]
PartialCompute = Annotated[
    str | None,
    typer.Option(
        help="Operating point that finds pauses and gives partial words; default: fast.",
        metavar="POINT",
    ),
]
BatchSeconds = Annotated[
    float | None, typer.Option(min=1.0, help="Seconds of audio that share a batch; default: 10, on a GPU 240.")
]
OutputFormat = Annotated[
    list[str] | None,
    typer.Option(
        "--output-format", "-f", help="txt, srt, vtt, tsv, json, ctm, textgrid or all; may be given more than once."
    ),
]
OutputDir = Annotated[
    Path | None, typer.Option("--output-dir", "-o", help="Folder for the written files; default: this one.")
]
MaxLineWidth = Annotated[int, typer.Option(min=1, help="Characters in a line of subtitles.")]
MaxLineCount = Annotated[int, typer.Option(min=1, help="Lines of subtitles shown at a time.")]
Recipe = Annotated[Path, typer.Option("--config", "-c", help="Recipe, a YAML file.")]
RunFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: log, checkpoints, final model.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Change one setting of the recipe, such as --set data_root=../data.", metavar="KEY=VALUE"
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where a stopped run left off.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what the run will be: parameters, epochs, memory, time.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def print_json(value: Any) -> None:
    """One JSON document on one line of standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def write_json(path: Path, value: Any) -> None:
    """The same as a file. Raises UserError where that cannot be written; folders are made."""
    from sewkit.files import replacing

    with replacing(path) as draft:
        draft.write_text(json.dumps(value, indent=1) + "\n")


def say_where_the_model_is(run: Path) -> None:
    """One line at the end of a training, from one of its processes."""
    from sewkit.train.distributed import is_first

    if is_first():
        typer.echo(f"sewkit: the model is in {run / 'model'}", err=True)

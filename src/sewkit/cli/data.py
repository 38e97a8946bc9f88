"""`sewkit data`: other layouts of speech data to a manifest, and what a manifest holds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sewkit.cli.options import Json, print_json
from sewkit.files import expect_file

if TYPE_CHECKING:
    from sewkit.data.validate import Requirements

data = typer.Typer(name="data", help="Import, validate and describe training data.", no_args_is_help=True)

Manifest = Annotated[Path, typer.Argument(help="A JSON-lines manifest.")]
Split = Annotated[str | None, typer.Option(help="Only rows of this split.")]
Root = Annotated[
    Path | None, typer.Option("--data-root", help="Where audio paths start; default: beside the manifest.")
]
MAX_NAMED = 10


@data.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A folder, or the file that lists the recordings.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write; audio stays where it is.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            help="librispeech, fairseq, nemo, kaldi, metadata, audiofolder, lhotse, shar or folder; "
            "default: what it looks like.",
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of all rows; default: what the layout says, or train.")
    ] = None,
    letters: Annotated[
        bool, typer.Option("--letters", help="Texts in capitals, without punctuation but apostrophes.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Headers read at the same time.")] = 8,
    as_json: Json = False,
) -> None:
    """Write a manifest of data in another layout.

    Takes LibriSpeech trees, fairseq tsv with ltr or wrd, NeMo JSON lines, Kaldi data folders, folders with a
    metadata.csv or .jsonl, Hugging Face AudioFolders, Lhotse cuts and Shar, and plain folders of audio without text.
    Bad recordings are named and left out, and the exit status is 1.

    Example:  sewkit data import LibriSpeech/train-clean-100 -o train.jsonl
    """
    from sewkit.cli.progress import counted
    from sewkit.data.importers import detect_format, import_rows, write_manifest

    expect_file(output)
    if format_ is None and source.exists():
        format_ = detect_format(source)
        print(f"importing {source} as {format_}", file=sys.stderr)
    entries = list(import_rows(source, format_))
    with counted("reading headers", "recordings", len(entries)) as on_progress:
        report = write_manifest(entries, output, split=split, letters=letters, threads=threads, on_progress=on_progress)
    for problem in report.problems[:MAX_NAMED]:
        print(f"sewkit: {problem}", file=sys.stderr)
    if len(report.problems) > MAX_NAMED:
        print(f"sewkit: ... and {len(report.problems) - MAX_NAMED:,} more (--json lists all)", file=sys.stderr)
    print_json({"manifest": str(output), **report.to_dict()}) if as_json else typer.echo(f"{output}: {report}")
    if report.problems:
        raise typer.Exit(1)


@data.command()
def validate(
    manifest: Manifest,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Whose frames and letters are asked for: hub id, folder, or a published size."
        ),
    ] = None,
    split: Split = None,
    data_root: Root = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Text plays no part: for pre-training.")] = False,
    min_seconds: Annotated[float, typer.Option(min=0.0, help="Shortest recording wanted.")] = 0.0,
    max_seconds: Annotated[float, typer.Option(min=0.0, help="Longest recording wanted; 0: any.")] = 0.0,
    read_audio: Annotated[bool, typer.Option("--read-audio", help="Decode every recording, too.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Recordings decoded at the same time.")] = 4,
    as_json: Json = False,
) -> None:
    """Name the rows that training would leave out, by rule, and why; exit status 1 if there are any.

    Example:  sewkit data validate train.jsonl --model sew-tiny --max-seconds 25 --read-audio
    """
    from sewkit.cli.progress import seconds_of_audio
    from sewkit.data.manifest import Manifest as Rows
    from sewkit.data.validate import validate as check

    rows = Rows.open(manifest, split, data_root, labelled=not unlabelled)
    needs = _requirements(model, unlabelled, min_seconds, max_seconds or float("inf"))
    with seconds_of_audio(float(rows.durations.sum()), "reading") as on_progress:
        _, report = check(rows, needs, read_audio=read_audio, threads=threads, on_progress=on_progress)
    print_json(report.to_dict()) if as_json else typer.echo(str(report))
    if report.num_kept < report.num_rows:
        raise typer.Exit(1)


@data.command()
def stats(manifest: Manifest, split: Split = None, as_json: Json = False) -> None:
    """Show the hours, rows and speakers of each split, and how long recordings are.

    Example:  sewkit data stats train.jsonl
    """
    from sewkit.data.manifest import Manifest as Rows

    rows = Rows.open(manifest, split, labelled=False)
    facts = describe(rows.durations, rows.column("split"), rows.column("speaker"), rows.column("text"))
    print_json(facts) if as_json else _print(facts)


def describe(durations: Any, splits: list[Any], speakers: list[Any], texts: list[Any]) -> dict[str, dict[str, Any]]:
    """Split -> rows, hours, speakers, rows with text, and the 0, 5, 50, 95 and 100 % points of durations in seconds."""
    import numpy as np

    names = np.array(["" if name is None else str(name) for name in splits])
    facts = {}
    for name in np.unique(names).tolist():
        rows = np.flatnonzero(names == name)
        facts[name] = {
            "rows": len(rows),
            "hours": float(durations[rows].sum()) / 3600,
            "speakers": len({speakers[row] for row in rows.tolist()} - {None}),
            "with_text": sum(texts[row] is not None for row in rows.tolist()),
            "seconds": np.percentile(durations[rows], (0, 5, 50, 95, 100)).round(2).tolist(),
        }
    return facts


def _requirements(model: str | None, unlabelled: bool, min_seconds: float, max_seconds: float) -> Requirements:
    """Of a model's head and extractor, or of English letters where none is named."""
    from sewkit.config import PUBLISHED
    from sewkit.data.validate import Requirements
    from sewkit.text import Alphabet

    alphabet = None if unlabelled else Alphabet.english()
    if model is None:
        return Requirements(min_seconds=min_seconds, max_seconds=max_seconds, alphabet=alphabet)
    if model in PUBLISHED:
        return Requirements.of_model(PUBLISHED[model], alphabet, min_seconds, max_seconds)
    from sewkit.checkpoint import load_model

    loaded = load_model(model)
    alphabet = None if unlabelled else loaded.alphabet or alphabet
    return Requirements.of_model(loaded.model.config, alphabet, min_seconds, max_seconds)


def _print(facts: dict[str, dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("split")
    for name in ("rows", "hours", "speakers", "with text", "seconds: least, 5 %, 50 %, 95 %, most"):
        table.add_column(name, justify="right")
    for name, values in facts.items():
        seconds = ", ".join(f"{value:.2f}" for value in values["seconds"])
        counts = (
            f"{values['rows']:,}",
            f"{values['hours']:,.2f}",
            f"{values['speakers']:,}",
            f"{values['with_text']:,}",
        )
        table.add_row(name or "-", *counts, seconds)
    Console().print(table)

"""What `evaluate` and `compare` share: options, and where their results go."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sewkit.errors import UserError
from sewkit.files import expect_folder

if TYPE_CHECKING:
    from sewkit.audio import AudioError
    from sewkit.data.manifest import Utterance
    from sewkit.evaluate.bootstrap import Resampled
    from sewkit.evaluate.document import Document, Table
    from sewkit.evaluate.evaluation import Evaluation
    from sewkit.recognizer import Recognizer

Split = Annotated[str | None, typer.Option(help="Only rows of this split.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that the manifests' audio paths start from; default: each manifest's own."),
]
NormalizerName = Annotated[
    str | None,
    typer.Option("--normalizer", help="Of both texts: none (the default), librispeech or whisper-english."),
]
Resample = Annotated[
    str | None,
    typer.Option(
        help="What intervals are drawn over: speakers, or utterances; default: speakers where 10 or more are known.",
        metavar="speakers|utterances",
    ),
]
ReportFolder = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write report.json, report.md and report.html, with players, here."),
]


def resampled(name: str | None) -> Resampled | None:
    """The choice of --resample. Raises UserError."""
    match name:
        case None | "speakers" | "utterances":
            return name
    raise UserError(f"--resample {name} is not known; expected speakers or utterances")


class Measured:
    """Manifests through a recognizer, under a bar. Bad recordings get a line on standard error and are counted."""

    def __init__(self, split: str | None, data_root: Path | None, normalizer: str | None, resample: str | None) -> None:
        from sewkit.evaluate.normalize import find_normalizer

        self.split = split
        self.data_root = data_root
        self.normalizer = find_normalizer(normalizer or "none").name
        self.resampled = resampled(resample)
        self.num_bad = 0

    def rows(self, manifest: Path) -> list[Utterance]:
        """Of a manifest."""
        from sewkit.data.manifest import read_manifest

        return read_manifest(manifest, self.split, self.data_root)

    def evaluate(self, asr: Recognizer, manifest: Path, compute: str | None = None) -> Evaluation:
        """One manifest, with what the figures depend on."""
        from dataclasses import replace

        from sewkit.bench.timing import environment
        from sewkit.cli.progress import seconds_of_audio
        from sewkit.evaluate.manifest import evaluate_manifest

        seconds = sum(row.duration for row in self.rows(manifest))
        with seconds_of_audio(seconds, f"transcribing {manifest.stem}") as on_progress:
            evaluation = evaluate_manifest(
                asr,
                manifest,
                split=self.split,
                data_root=self.data_root,
                compute=compute,
                normalizer=self.normalizer,
                resampled=self.resampled,
                on_progress=on_progress,
                on_error=self.report,
            )
        command = shlex.join(["sewkit", *sys.argv[1:]])
        return replace(evaluation, environment=environment(), command=command)

    def report(self, error: AudioError) -> None:
        """A line for a recording that cannot be read."""
        self.num_bad += 1
        print(f"sewkit: {error}", file=sys.stderr)

    @contextmanager
    def status(self) -> Iterator[None]:
        """Exit status 1 at the end, if any recording was bad."""
        yield
        if self.num_bad:
            raise typer.Exit(1)


def report_folders(manifests: list[Path], output: Path | None) -> dict[Path, Path | None]:
    """Where each manifest's report goes: --output itself, or a folder in it for each of several.

    Raises UserError where they cannot be written.
    """
    from sewkit.cli.sources import unique_stems

    if output is not None:
        expect_folder(output)
    if output is None or len(manifests) == 1:
        return dict.fromkeys(manifests, output)
    stems = unique_stems(map(str, manifests))
    return {manifest: output / stems[str(manifest)] for manifest in manifests}


def write(folder: Path, document: Document, facts: dict[str, Any]) -> None:
    """The three files, named on standard error."""
    from sewkit.evaluate.report import write_report

    paths = write_report(folder, document, facts)
    print(f"wrote {', '.join(map(str, paths))}", file=sys.stderr)


def show(text: str, make_document: Callable[[], Document]) -> None:
    """On a terminal the document's first table and its notes; elsewhere plain lines."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        typer.echo(text)
        return
    document = make_document()
    console.print(f"\n{document.title}", style="bold", markup=False, highlight=False)
    _print_table(console, document.tables[0])
    for figure in document.figures[2:]:
        console.print(f"{figure.name}: {figure.value} ({figure.detail})", markup=False, highlight=False)
    for note in document.notes:
        console.print(f"- {note}", markup=False, highlight=False)


def _print_table(console: Any, table: Table) -> None:
    from rich.markup import escape
    from rich.table import Table as RichTable

    printed = RichTable()
    for column in table.columns:
        printed.add_column(escape(column.title), justify="right" if column.spec else "left")
    for row in table.rows:
        printed.add_row(*(escape(column.show(value)) for column, value in zip(table.columns, row, strict=True)))
    console.print(printed)

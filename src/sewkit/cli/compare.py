"""`sewkit compare`: is one of two systems better on the same recordings, and where?"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sewkit.cli.options import Device, Json, Threads, print_json
from sewkit.cli.reports import (
    DataRoot,
    Measured,
    NormalizerName,
    ReportFolder,
    Resample,
    Split,
    report_folders,
    resampled,
    show,
    write,
)
from sewkit.errors import UserError

if TYPE_CHECKING:
    from sewkit.evaluate.compare import Comparison
    from sewkit.evaluate.evaluation import Evaluation


def compare(
    a: Annotated[str, typer.Argument(help="A model, or a report.json of sewkit evaluate (or its folder).")],
    b: Annotated[str, typer.Argument(help="Another.")],
    manifests: Annotated[
        list[Path] | None, typer.Argument(help="JSON-lines manifests for two models; none for two reports.")
    ] = None,
    split: Split = None,
    data_root: DataRoot = None,
    normalizer: NormalizerName = None,
    resample: Resample = None,
    output: ReportFolder = None,
    compute_a: Annotated[str | None, typer.Option(help="Operating point of A; default: its dearest.")] = None,
    compute_b: Annotated[str | None, typer.Option(help="Operating point of B; default: its dearest.")] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Compare two models, or two evaluations of the same data: differences with paired bootstrap intervals.

    Positive differences mean that B makes more errors. The intervals are drawn for both systems from the same
    recordings, so that what is hard for both cancels; `p` is two-sided. Reports are compared without transcribing
    again.

    Example:  sewkit compare runs/base/model runs/mine/model test.jsonl -o comparison

    Example:  sewkit compare runs/mine/model runs/mine/model test.jsonl --compute-a full --compute-b fast

    Example:  sewkit compare reports/base/report.json reports/mine/report.json
    """
    from sewkit.evaluate.compare import compare as compare_evaluations
    from sewkit.evaluate.report import comparison_document

    reports = [_report_path(one) for one in (a, b)]
    manifests = list(dict.fromkeys(manifests or []))
    folders = report_folders(manifests or [Path("reports")], output)
    measured = Measured(split, data_root, normalizer, resample)
    if reports[0] and reports[1]:
        if manifests or split or data_root or compute_a or compute_b:
            raise UserError(
                f"{a} and {b} are reports of their data: leave out manifests, --split, --data-root and --compute"
            )
        pairs = iter([(_read(reports[0], normalizer, resample), _read(reports[1], normalizer, resample))])
    elif reports[0] or reports[1]:
        report, other = (a, b) if reports[0] else (b, a)
        found = "is none" if Path(other).exists() else "is no file or folder"
        raise UserError(f"{report} is a report, {other} {found}: give two reports, or two models and data")
    elif not manifests:
        raise UserError("two models need data to be compared on: name one or more manifests after them")
    else:
        pairs = _evaluations([(a, compute_a), (b, compute_b)], manifests, measured, device, threads)
    with measured.status():
        for folder, (left, right) in zip(folders.values(), pairs, strict=True):
            comparison = compare_evaluations(left, right)
            if as_json:
                print_json(comparison.to_dict())
            else:
                show(str(comparison), functools.partial(comparison_document, comparison, most=0))
            if folder is not None:
                _write(folder, comparison, None if reports[0] else measured)


def _evaluations(
    systems: list[tuple[str, str | None]],
    manifests: list[Path],
    measured: Measured,
    device: str | None,
    threads: int | None,
) -> Iterator[tuple[Evaluation, Evaluation]]:
    """Both models, each at its point, over all manifests; one model in memory at a time."""
    from sewkit.recognizer import load

    found: list[list[Evaluation]] = []
    for model, compute in systems:
        asr = load(model, device=device, threads=threads)
        found.append([measured.evaluate(asr, manifest, compute) for manifest in manifests])
    return zip(*found, strict=True)


def _report_path(name: str) -> Path | None:
    """Of a report.json or of the folder of one; None for a model."""
    path = Path(name)
    if path.suffix == ".json":
        return path
    inside = path / "report.json"
    return inside if inside.is_file() and not (path / "config.json").is_file() else None


def _read(path: Path, normalizer: str | None, resample: str | None) -> Evaluation:
    """An evaluation, its errors counted anew where a normalizer or what is resampled is given."""
    from dataclasses import replace

    from sewkit.evaluate.evaluation import read_evaluation

    found = read_evaluation(path)
    return replace(found, normalizer=normalizer or found.normalizer, resampled=resampled(resample) or found.resampled)


def _write(folder: Path, comparison: Comparison, measured: Measured | None) -> None:
    """With players where the manifest was read here."""
    from sewkit.evaluate.clips import Clips
    from sewkit.evaluate.report import comparison_document

    clips = Clips(measured.rows(Path(comparison.a.manifest))) if measured else None
    write(folder, comparison_document(comparison, clips), comparison.to_dict())

"""`sewkit evaluate`: word error rate of a model, or accuracy of a classifier, on a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sewkit.cli.decoding import Alpha, Beam, Beta, Hotword, LanguageModelFile, choose_decoder
from sewkit.cli.options import BUNDLED, ComputePoint, Device, Json, Threads, print_json
from sewkit.cli.reports import (
    DataRoot,
    Measured,
    NormalizerName,
    ReportFolder,
    Resample,
    Split,
    report_folders,
    show,
    write,
)
from sewkit.errors import UserError
from sewkit.files import expect_file, expect_folder

if TYPE_CHECKING:
    from sewkit.evaluate.evaluation import Evaluation
    from sewkit.recognizer import Recognizer


def evaluate(
    manifests: Annotated[list[Path], typer.Argument(help="JSON-lines manifests with audio and text (or labels).")],
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id, folder, .pt file or bundled name.")] = BUNDLED,
    split: Split = None,
    data_root: DataRoot = None,
    normalizer: NormalizerName = None,
    resample: Resample = None,
    output: ReportFolder = None,
    worst: Annotated[
        int, typer.Option(min=0, help="Utterances with most errors to show in the report, beside a random sample.")
    ] = 30,
    label_column: Annotated[
        str | None,
        typer.Option(help="For a classifier: column with the true class; default: the one it was trained on."),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(help="For a classifier and one manifest: draw the confusion matrix into this PNG file."),
    ] = None,
    lm: LanguageModelFile = None,
    hotword: Hotword = None,
    beam: Beam = None,
    alpha: Alpha = None,
    beta: Beta = None,
    tune_lm: Annotated[
        bool,
        typer.Option(
            "--tune-lm",
            help="Find alpha and beta on these manifests, and store them and the --lm in the model's folder.",
        ),
    ] = False,
    compute: ComputePoint = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure word and character error rates, with 95 % bootstrap intervals, and speed.

    With --output, a report of each manifest: errors by kind, word, speaker and length, and the worst utterances to
    listen to. A bad recording gets one line on standard error, the others are measured, and the exit status is 1.

    Of a model with a classification head: accuracy with its 95 % Wilson interval, macro F1, and recall of each class.

    --tune-lm tries a grid of weights instead, on manifests that must not be the ones to report.

    Example:  sewkit evaluate recipes/bundled/test-*.jsonl --data-root data -o report
    """
    from sewkit.recognizer import load

    folders = report_folders(manifests, output)
    if confusion is not None:
        expect_file(confusion)
    asr = load(model, device=device, threads=threads)
    classifies = asr.config.num_labels is not None
    if not classifies and (label_column or confusion):
        raise UserError(f"--label-column and --confusion are for classifiers; {model} has no classification head")
    if classifies and (output or normalizer or resample):
        raise UserError(f"--output, --normalizer and --resample are for models that transcribe; {model} classifies")
    if tune_lm and compute:
        raise UserError("--tune-lm finds weights at the model's dearest operating point: leave out --compute")
    if tune_lm:
        _tune(asr, model, lm, beam, manifests, split, data_root, as_json)
        return
    measured = Measured(split, data_root, normalizer, resample)
    if classifies:
        with measured.status():
            _classes(asr, manifests, label_column, confusion, measured, compute, as_json)
        return
    choose_decoder(asr, lm, hotword, beam, alpha, beta)
    with measured.status():
        for manifest, folder in folders.items():
            evaluation = measured.evaluate(asr, manifest, compute)
            _give(evaluation, measured, folder, worst, as_json)


def _classes(
    asr: Recognizer,
    manifests: list[Path],
    label_column: str | None,
    confusion: Path | None,
    measured: Measured,
    compute: str | None,
    as_json: bool,
) -> None:
    """Accuracy of a classifier on each manifest."""
    from sewkit.evaluate.manifest import evaluate_classes

    if confusion and len(manifests) > 1:
        raise UserError(f"--confusion draws one manifest, found {len(manifests)}; evaluate them one by one")
    for manifest in manifests:
        result = evaluate_classes(
            asr,
            manifest,
            label_column=label_column,
            split=measured.split,
            data_root=measured.data_root,
            compute=compute,
            on_error=measured.report,
        )
        if confusion:
            result.confusion.draw(confusion)
        print_json(result.to_dict()) if as_json else typer.echo(str(result))


def _give(evaluation: Evaluation, measured: Measured, folder: Path | None, worst: int, as_json: bool) -> None:
    """Error rates of one manifest, shown and written."""
    from sewkit.evaluate.clips import Clips
    from sewkit.evaluate.report import evaluation_document

    facts = evaluation.to_dict() if as_json or folder else {}
    if as_json:
        print_json(facts)
    else:
        show(str(evaluation), lambda: evaluation_document(evaluation, worst=0, sample=0))
    if folder is not None:
        write(
            folder, evaluation_document(evaluation, Clips(measured.rows(Path(evaluation.manifest))), worst=worst), facts
        )


def _tune(
    asr: Recognizer,
    model: str,
    lm: Path | None,
    beam: int | None,
    manifests: list[Path],
    split: str | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    from sewkit.cli.progress import counted
    from sewkit.data.manifest import read_manifest
    from sewkit.decode import BeamSearch
    from sewkit.decode.lm.folder import find_lm, store_lm
    from sewkit.evaluate.tuning import ALPHAS, BETAS, tune_lm

    stored = find_lm(model)
    path = lm or (stored and stored.path)
    if path is None:
        raise UserError("--tune-lm needs a language model: give one with --lm")
    if not (Path(model).expanduser() / "config.json").is_file():
        raise UserError(
            f"--tune-lm stores the weights in the model's folder; {model} is none, make one: sewkit convert"
        )
    expect_folder(Path(model).expanduser())
    choose_decoder(asr, lm, None, beam)
    assert isinstance(asr.decoder, BeamSearch)
    utterances = [row for manifest in manifests for row in read_manifest(manifest, split, data_root)]
    with counted("tuning", "pairs of weights", len(ALPHAS) * len(BETAS)) as advance:
        tuning = tune_lm(asr, asr.decoder, utterances, on_progress=advance)
    folder = store_lm(model, path, tuning.weights, asr.decoder.symbols.alphabet)
    if as_json:
        print_json(tuning.to_dict())
        return
    typer.echo(tuning.table())
    best = min(trial.wer for trial in tuning.trials)
    typer.echo(
        f"best: alpha {tuning.weights.alpha:g}, beta {tuning.weights.beta:g}, WER {best:.1%}; "
        f"greedy {tuning.greedy_wer:.1%}; stored in {folder}"
    )

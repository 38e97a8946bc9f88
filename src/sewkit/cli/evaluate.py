"""`sewkit evaluate`: word error rate of a model, or accuracy of a classifier, on a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sewkit.cli.options import BUNDLED, Device, Json, Threads, print_json


def evaluate(
    manifests: Annotated[list[Path], typer.Argument(help="JSON-lines manifests with audio and text (or labels).")],
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id, folder, .pt file or bundled name.")] = BUNDLED,
    split: Annotated[str | None, typer.Option(help="Only rows of this split.")] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder that the manifests' audio paths start from; default: each manifest's own."),
    ] = None,
    label_column: Annotated[
        str | None,
        typer.Option(help="For a classifier: column with the true class; default: the one it was trained on."),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(help="For a classifier and one manifest: draw the confusion matrix into this PNG file."),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the word error rate, with its 95 % bootstrap interval over recordings, one line a manifest.

    Of a model with a classification head: accuracy with its 95 % Wilson interval, macro F1, and recall of each class.

    Example:  sewkit evaluate recipes/bundled/test-*.jsonl --data-root data
    """
    from sewkit.errors import UserError
    from sewkit.evaluate.manifest import ClassEvaluation, Evaluation, evaluate_classes, evaluate_manifest
    from sewkit.recognizer import load

    asr = load(model, device=device, threads=threads)
    classifies = asr.config.num_labels is not None
    if not classifies and (label_column or confusion):
        raise UserError(f"--label-column and --confusion are for classifiers; {model} has no classification head")
    if confusion and len(manifests) > 1:
        raise UserError(f"--confusion draws one manifest, found {len(manifests)}; evaluate them one by one")
    result: Evaluation | ClassEvaluation
    for manifest in manifests:
        if classifies:
            result = evaluate_classes(asr, manifest, label_column=label_column, split=split, data_root=data_root)
            if confusion:
                result.confusion.draw(confusion)
        else:
            result = evaluate_manifest(asr, manifest, split=split, data_root=data_root)
        print_json(result.to_dict()) if as_json else typer.echo(str(result))

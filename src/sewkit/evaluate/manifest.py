"""A model on a manifest: its word error rate, or for a classifier its accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sewkit.data.manifest import load_utterance, read_manifest
from sewkit.errors import UserError
from sewkit.evaluate.classification import Confusion, class_ids, label_of
from sewkit.evaluate.wer import WordErrorRate, wer_with_interval
from sewkit.recognizer import Recognizer


@dataclass(frozen=True)
class Evaluation:
    """What `sewkit evaluate` reports of one manifest."""

    manifest: str
    model: str
    audio_seconds: float
    wer: WordErrorRate

    def __str__(self) -> str:
        return f"{Path(self.manifest).stem}: WER {self.wer}, {self.audio_seconds:.0f} s of audio"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class ClassEvaluation:
    """What `sewkit evaluate` reports of one manifest and a classifier."""

    manifest: str
    model: str
    audio_seconds: float
    label_column: str
    confusion: Confusion

    def __str__(self) -> str:
        name = f"{Path(self.manifest).stem}, {self.label_column}"
        return f"{name}: {self.confusion}, {self.audio_seconds:.0f} s of audio\n{self.confusion.table()}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        facts = {name: getattr(self, name) for name in ("manifest", "model", "audio_seconds", "label_column")}
        return {**facts, **self.confusion.to_dict()}


def evaluate_manifest(
    asr: Recognizer, manifest: Path, *, split: str | None = None, data_root: Path | None = None
) -> Evaluation:
    """Transcribe a manifest (or one split of it) and count the errors, words compared as they are written."""
    utterances = read_manifest(manifest, split, data_root)
    transcripts = list(asr.transcribe_batch(load_utterance(utterance) for utterance in utterances))
    return Evaluation(
        str(manifest),
        asr.name,
        sum(transcript.duration for transcript in transcripts),
        wer_with_interval(
            [utterance.text for utterance in utterances], [transcript.text for transcript in transcripts]
        ),
    )


def evaluate_classes(
    asr: Recognizer,
    manifest: Path,
    *,
    label_column: str | None = None,
    split: str | None = None,
    data_root: Path | None = None,
) -> ClassEvaluation:
    """Classify a manifest (or one split of it) and compare with `label_column`.

    Without one, the column that the model was trained on, if its folder says so. Raises UserError if it does not, and
    for rows whose class the model does not know.
    """
    column = label_column or asr.loaded.label_column
    if column is None:
        raise UserError(f"{asr.name} does not say which column its labels come from: name it with --label-column")
    utterances = read_manifest(manifest, split, data_root, labelled=False)
    labels = asr.loaded.labels or ()
    references = class_ids(labels, [label_of(utterance, column) for utterance in utterances])
    found = list(asr.classify_batch((load_utterance(utterance) for utterance in utterances), top=1))
    confusion = Confusion.count(labels, references, class_ids(labels, [one.label for one in found]))
    return ClassEvaluation(str(manifest), asr.name, sum(one.duration for one in found), column, confusion)

"""A model on a manifest: its word error rate, or for a classifier its accuracy."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import AudioError
from sewkit.compute import Compute
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.decode import BeamSearch, Decoder
from sewkit.errors import UserError
from sewkit.evaluate.bootstrap import Resampled
from sewkit.evaluate.classification import Confusion, class_ids, label_of
from sewkit.evaluate.evaluation import Evaluation, Missing, Speed, System, file_sha256, peak_memory_mib
from sewkit.evaluate.normalize import find_normalizer
from sewkit.evaluate.scores import Heard
from sewkit.recognizer import Recognizer
from sewkit.transcript import Transcript


@dataclass(frozen=True)
class ClassEvaluation:
    """What `sewkit evaluate` reports of one manifest and a classifier."""

    manifest: str
    model: str
    compute: str
    """The operating point."""
    audio_seconds: float
    label_column: str
    confusion: Confusion

    def __str__(self) -> str:
        name = f"{Path(self.manifest).stem}, {self.label_column}"
        return f"{name}: {self.confusion}, {self.audio_seconds:.0f} s of audio\n{self.confusion.table()}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        facts = {
            name: getattr(self, name) for name in ("manifest", "model", "compute", "audio_seconds", "label_column")
        }
        return {**facts, **self.confusion.to_dict()}


def evaluate_manifest(
    asr: Recognizer,
    manifest: Path,
    *,
    split: str | None = None,
    data_root: Path | None = None,
    compute: Compute | str | None = None,
    normalizer: str = "none",
    resampled: Resampled | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_error: Callable[[AudioError], None] | None = None,
) -> Evaluation:
    """Transcribe a manifest (or one split of it) and count the errors, on texts that `normalizer` has gone over.

    resampled: what intervals are drawn over, "speakers" or "utterances"; None chooses, see `Clusters.choose`. A
    recording that cannot be read is handed to `on_error`, listed as missing, and in no figure.
    Raises UserError where no recording can be read, or no reference has a word.
    """
    find_normalizer(normalizer)
    run = _Run(asr, read_manifest(manifest, split, data_root), on_error)
    heard, speed = run.transcribe(compute, on_progress)
    if not heard:
        first = run.missing[0]
        raise UserError(
            f"{manifest}: none of its {len(run.missing)} recordings could be read, the first ({first.name}): "
            f"{first.problem}"
        )
    evaluation = Evaluation(
        manifest=str(manifest),
        manifest_sha256=file_sha256(manifest),
        split=split,
        system=_describe(asr, compute),
        normalizer=normalizer,
        resampled=resampled,
        speed=speed,
        heard=heard,
        missing=run.missing,
    )
    evaluation.wer  # noqa: B018 - raises now, not when it is written
    return evaluation


class _Run:
    """A manifest on its way through a recognizer. A row at a time is read, and the recognizer's look-ahead kept."""

    def __init__(
        self, asr: Recognizer, utterances: list[Utterance], on_error: Callable[[AudioError], None] | None
    ) -> None:
        self.asr = asr
        self.utterances = utterances
        self.on_error = on_error
        self.missing: list[Missing] = []
        self.reading_seconds = 0.0
        self._underway: deque[tuple[int, Utterance]] = deque()

    def transcribe(
        self, compute: Compute | str | None, on_progress: Callable[[float], None] | None
    ) -> tuple[list[Heard], Speed]:
        """What was heard of all rows that can be read, in order, and what it cost."""
        start = time.perf_counter()
        transcripts = self.asr.transcribe_batch(
            self._waveforms(),
            compute=compute,
            on_progress=on_progress,
            on_error=lambda error: self._note(*self._underway.popleft(), error),
        )
        heard = [self._heard(*self._underway.popleft(), transcript) for transcript in transcripts]
        self.missing.sort(key=lambda one: one.row)
        speed = Speed(
            seconds=time.perf_counter() - start,
            reading_seconds=self.reading_seconds,
            audio_seconds=sum(one.seconds for one in heard),
            peak_memory_mib=peak_memory_mib(),
            peak_gpu_memory_mib=_peak_gpu_memory_mib(),
        )
        return heard, speed

    def _waveforms(self) -> Iterator[np.ndarray]:
        for row, utterance in enumerate(self.utterances):
            start = time.perf_counter()
            try:
                waveform = load_utterance(utterance)
            except AudioError as error:
                self._note(row, utterance, error)
                continue
            finally:
                self.reading_seconds += time.perf_counter() - start
            self._underway.append((row, utterance))
            yield waveform

    def _note(self, row: int, utterance: Utterance, error: AudioError) -> None:
        named = AudioError(utterance.name if error.source == "<array>" else error.source, error.problem)
        self.missing.append(Missing(row=row, name=named.source, problem=named.problem))
        if self.on_error is not None:
            self.on_error(named)

    def _heard(self, row: int, utterance: Utterance, transcript: Transcript) -> Heard:
        return Heard(
            row=row,
            name=utterance.name,
            speaker=utterance.speaker,
            seconds=round(transcript.duration, 3),
            reference=utterance.text,
            hypothesis=transcript.text,
        )


def _describe(asr: Recognizer, compute: Compute | str | None) -> System:
    device, dtype = getattr(asr.runtime, "device", "cpu"), getattr(asr.runtime, "dtype", "float32")
    return System(
        model=asr.name,
        parameters=asr.loaded.model.num_parameters(),
        compute=str(asr.resolve(compute)),
        decoding=_decoding(asr.decoder),
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
    )


def _decoding(decoder: Decoder) -> str:
    if not isinstance(decoder, BeamSearch):
        return "greedy"
    parts = [f"beam search of width {decoder.pruning.width}"]
    if decoder.lm is not None:
        parts.append(f"n-gram language model, alpha {decoder.weights.alpha:g}, beta {decoder.weights.beta:g}")
    if decoder.hotwords.words:
        parts.append(f"hotwords {' '.join(decoder.hotwords.words)}")
    return ", ".join(parts)


def _peak_gpu_memory_mib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None


def evaluate_classes(
    asr: Recognizer,
    manifest: Path,
    *,
    label_column: str | None = None,
    split: str | None = None,
    data_root: Path | None = None,
    compute: Compute | str | None = None,
    on_error: Callable[[AudioError], None] | None = None,
) -> ClassEvaluation:
    """Classify a manifest (or one split of it) and compare with `label_column`.

    Without one, the column that the model was trained on, if its folder says so. A recording that cannot be read is
    handed to `on_error`, and in no figure; without that it is raised. Raises UserError if no column is known, for rows
    whose class the model does not know, and where no recording can be read.
    """
    column = label_column or asr.loaded.label_column
    if column is None:
        raise UserError(f"{asr.name} does not say which column its labels come from: name it with --label-column")
    utterances = read_manifest(manifest, split, data_root, labelled=False)
    labels = asr.loaded.labels or ()
    references = class_ids(labels, [label_of(utterance, column) for utterance in utterances])
    heard: list[int] = []

    def waveforms() -> Iterator[np.ndarray]:
        for reference, utterance in zip(references, utterances, strict=True):
            try:
                waveform = load_utterance(utterance)
            except AudioError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            heard.append(reference)
            yield waveform

    found = list(asr.classify_batch(waveforms(), compute=compute, top=1))
    if not found:
        raise UserError(f"{manifest}: none of its {len(utterances)} recordings could be read")
    confusion = Confusion.count(labels, heard, class_ids(labels, [one.label for one in found]))
    return ClassEvaluation(
        str(manifest), asr.name, str(asr.resolve(compute)), sum(one.duration for one in found), column, confusion
    )

"""A model's word error rate on a manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sewkit.data.manifest import load_utterance, read_manifest
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

"""sewkit and transformers' pipeline on the same weights and the same sound, in the same run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.timing import interleaved, ratio, summary
from sewkit.checkpoint import save_model
from sewkit.config import PUBLISHED
from sewkit.errors import MissingExtraError
from sewkit.model import build_model
from sewkit.recognizer import load
from sewkit.text import Alphabet

Transcriber = Callable[[Sequence[np.ndarray]], list[str]]


def compare_with_transformers(name: str, clips: Sequence[np.ndarray], runs: int) -> list[dict[str, Any]]:
    """Times one model on `clips` (float32 at 16 kHz), one by one and batched; a row for each way.

    `name` is anything `sewkit.load` takes, or a published size, which then gets random weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save_for_both(name, Path(folder))
        asr = load(folder)
        pipeline = _pipeline(folder)

        def ours_one_by_one() -> list[str]:
            return [asr.transcribe(clip).text for clip in clips]

        def ours_batched() -> list[str]:
            return [transcript.text for transcript in asr.transcribe_batch(clips)]

        ways = {
            "batch 1": (ours_one_by_one, lambda: pipeline(clips, 1)),
            "batched": (ours_batched, lambda: pipeline(clips, len(clips))),
        }
        return [
            _row(name, way, clips, interleaved({"sewkit": a, "transformers": b}, runs)) for way, (a, b) in ways.items()
        ]


def _row(name: str, way: str, clips: Sequence[np.ndarray], seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "model": name,
        "way": way,
        "clips": len(clips),
        "audio_seconds": sum(len(clip) for clip in clips) / SAMPLE_RATE,
        "sewkit": summary(seconds["sewkit"]),
        "transformers": summary(seconds["transformers"]),
        "times_faster": ratio(seconds["transformers"], seconds["sewkit"]),
    }


def _save_for_both(name: str, folder: Path) -> None:
    if name in PUBLISHED:
        alphabet = Alphabet.english()
        torch.manual_seed(0)
        save_model(folder, build_model(PUBLISHED[name].replace(vocab_size=len(alphabet))), alphabet)
    else:
        load(name).save(folder)


def _pipeline(folder: str) -> Callable[[Sequence[np.ndarray], int], list[str]]:
    """transformers' speech recognition pipeline as a function of clips and batch size."""
    try:
        from transformers import pipeline
        from transformers.utils import logging
    except ImportError:
        raise MissingExtraError("the comparison with transformers", "dev") from None
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    recognize = pipeline("automatic-speech-recognition", model=folder, device="cpu")

    def run(clips: Sequence[np.ndarray], batch_size: int) -> list[str]:
        inputs = [{"raw": clip, "sampling_rate": SAMPLE_RATE} for clip in clips]
        return [result["text"] for result in recognize(inputs, batch_size=batch_size)]  # type: ignore[arg-type]

    return run

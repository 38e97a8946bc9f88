"""The gate of an export: is the exported model as good as the one it was made from, and faster? See `sewkit export`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.timing import PAUSE, interleaved, ratio, summary
from sewkit.checkpoint import LoadedModel
from sewkit.checkpoint.exported import RuntimeName
from sewkit.compute import Compute, names_by_macs
from sewkit.errors import UserError
from sewkit.evaluate.wer import letter_errors, rate_of, word_errors
from sewkit.recognizer import Recognizer, load
from sewkit.runtime.export import export, new_folder
from sewkit.runtime.pytorch import TorchRuntime

SPEED_SECONDS = 10.0
"""Length of the clip that is timed, alone in its batch."""
MAX_WER_LOSS = 0.003
"""Word error rate that an export may lose unless the caller says, a fraction."""


@dataclass(frozen=True, kw_only=True)
class GateClip:
    """A recording with what is said in it; None where that is not known."""

    waveform: np.ndarray
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class PointGate:
    """One operating point before (PyTorch, float32) and after the export."""

    point: str
    difference: float
    """The largest of an output: of logits, class scores or frames, whichever the model gives."""
    largest: float
    """The largest absolute value of that output before, to judge the difference by."""
    wer_before: float | None
    wer_after: float | None
    """Word error rates, fractions; None where no text is known or the model does not transcribe."""
    changed: float | None
    """Share of characters that differ between the two transcripts, or of clips whose class does."""
    seconds_before: dict[str, float]
    seconds_after: dict[str, float]
    times_as_fast: float

    @property
    def wer_loss(self) -> float | None:
        """Rate after less rate before."""
        return None if self.wer_before is None or self.wer_after is None else self.wer_after - self.wer_before

    def __str__(self) -> str:
        """For people, on one line."""
        before, after = (1e3 * seconds["median"] for seconds in (self.seconds_before, self.seconds_after))
        changed = "" if self.changed is None else f", {self.changed:.2%} changed"
        loss = "" if self.wer_loss is None else f", WER {self.wer_before:.2%} -> {self.wer_after:.2%}"
        return (
            f"{self.point}: {self.times_as_fast:.2f} times as fast ({before:,.1f} -> {after:,.1f} ms), "
            f"largest difference {self.difference:.2g} of {self.largest:.3g}{changed}{loss}"
        )

    def problems(self, max_wer_loss: float) -> list[str]:
        """What speaks against the export; the loss that is allowed is a fraction."""
        found = []
        if not np.isfinite(self.difference):
            found.append(f"at {self.point} its output is not finite")
        if self.times_as_fast < 1:
            found.append(f"at {self.point} it is slower, {self.times_as_fast:.2f} times as fast")
        if self.loses_more(max_wer_loss):
            loss = f"{100 * (self.wer_loss or 0):.2f} points of WER, allowed are {100 * max_wer_loss:g}"
            found.append(f"at {self.point} it loses {loss}")
        return found

    def loses_more(self, max_wer_loss: float) -> bool:
        """Than this fraction."""
        return self.wer_loss is not None and round(self.wer_loss, 9) > max_wer_loss


@dataclass(frozen=True, kw_only=True)
class Gate:
    """The measured points of an export."""

    num_clips: int
    num_words: int
    """That are known to be said."""
    audio_seconds: float
    points: tuple[PointGate, ...]

    def problems(self, max_wer_loss: float) -> list[str]:
        """Of all points; without any the model passes."""
        found = [problem for point in self.points for problem in point.problems(max_wer_loss)]
        if max_wer_loss * self.num_words < 1 and any(point.loses_more(max_wer_loss) for point in self.points):
            needed = f": --gate-data with {math.ceil(1 / max_wer_loss)} words or more tells" if max_wer_loss else ""
            found.append(f"one of the {self.num_words} words is {100 / self.num_words:.2g} points{needed}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


class GateRefused(UserError):
    """An export that does not pass; nothing was written."""


def export_through_gate(
    loaded: LoadedModel,
    folder: Path,
    runtime: RuntimeName,
    clips: Sequence[GateClip],
    *,
    int8_clips: Sequence[np.ndarray] | None = None,
    portable: bool = False,
    points: Sequence[Compute] | None = None,
    max_wer_loss: float = MAX_WER_LOSS,
    force: bool = False,
    runs: int = 7,
    on_gate: Callable[[Gate], None] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Gate:
    """Export a model to a new folder if what was exported passes the gate, or with `force`; see `runtime.export`.

    Compared are the points that `sewkit.compute.NAMES` stand for. `on_gate` is handed the figures before anything is
    decided; on_progress: called with 1 for each operating point that is exported, then with shares of the comparison,
    which sum to 1. Raises UserError, a GateRefused where the model does not pass.
    """
    with new_folder(folder) as draft:
        export(loaded, draft, runtime, int8_clips=int8_clips, portable=portable, points=points, on_progress=on_progress)
        after = load(draft)
        before = Recognizer(loaded, TorchRuntime(loaded.model, torch.device("cpu")), "before")
        gate = run_gate(before, after, clips, _named(after), runs=runs, on_progress=on_progress)
        if on_gate is not None:
            on_gate(gate)
        if (problems := gate.problems(max_wer_loss)) and not force:
            raise GateRefused(f"{folder} is not written: {'; '.join(problems)}; --force writes it nevertheless")
    return gate


def _named(asr: Recognizer) -> list[Compute]:
    """The points with a name, each once."""
    curve = asr.loaded.curve
    names = names_by_macs(asr.config) if curve is None else curve.names
    return list(dict.fromkeys(names.values()))


def run_gate(
    before: Recognizer,
    after: Recognizer,
    clips: Sequence[GateClip],
    points: Sequence[Compute],
    *,
    runs: int = 7,
    on_progress: Callable[[float], None] | None = None,
) -> Gate:
    """Compare two recognizers of one model on clips, at each of the points.

    Speed is of a clip of `SPEED_SECONDS` made of these, both in turn `runs` times. on_progress: called with shares of
    the work, which sum to 1. Raises UserError without clips.
    """
    if not clips:
        raise UserError("the gate has nothing to listen to; expected at least one clip")
    share = 1 / (len(points) * len(clips))
    measured = tuple(_measure(before, after, clips, point, runs, share, on_progress) for point in points)
    seconds = sum(len(clip.waveform) for clip in clips) / SAMPLE_RATE
    num_words = sum(len(clip.text.split()) for clip in clips if clip.text is not None)
    return Gate(num_clips=len(clips), num_words=num_words, audio_seconds=seconds, points=measured)


def _measure(
    before: Recognizer,
    after: Recognizer,
    clips: Sequence[GateClip],
    point: Compute,
    runs: int,
    share_of_clip: float,
    on_progress: Callable[[float], None] | None,
) -> PointGate:
    differences, sizes = [0.0], [0.0]
    for clip in clips:
        (one,), (other,) = (_output(asr, clip.waveform, point) for asr in (before, after))
        differences.append(float(np.abs(one - other).max(initial=0)))
        sizes.append(float(np.abs(one).max(initial=0)))
        if on_progress is not None:
            on_progress(share_of_clip)
    rates = _rates(before, after, clips, point)
    timed = _timed_clip(clips)
    times = interleaved(
        {"before": lambda: _output(before, timed, point), "after": lambda: _output(after, timed, point)}, runs, PAUSE
    )
    return PointGate(
        point=str(point),
        difference=float(np.max(differences)),
        largest=max(sizes),
        wer_before=rates[0],
        wer_after=rates[1],
        changed=rates[2],
        seconds_before=summary(times["before"]),
        seconds_after=summary(times["after"]),
        times_as_fast=ratio(times["before"], times["after"]),
    )


def _output(asr: Recognizer, waveform: np.ndarray, point: Compute) -> list[np.ndarray]:
    config = asr.config
    if config.vocab_size is not None:
        return asr.runtime.logits([waveform], point)
    return (asr.runtime.encode if config.num_labels is None else asr.runtime.class_scores)([waveform], point)


def _rates(
    before: Recognizer, after: Recognizer, clips: Sequence[GateClip], point: Compute
) -> tuple[float | None, float | None, float | None]:
    """(WER before, WER after, share changed)."""
    waveforms = [clip.waveform for clip in clips]
    if before.config.num_labels is not None and before.loaded.labels is not None:
        one, other = (
            [found.label for found in asr.classify_batch(waveforms, compute=point)] for asr in (before, after)
        )
        return None, None, float(np.mean([a != b for a, b in zip(one, other, strict=True)]))
    if before.loaded.alphabet is None:
        return None, None, None
    one, other = ([found.text for found in asr.transcribe_batch(waveforms, compute=point)] for asr in (before, after))
    changed = rate_of(letter_errors(one, other))
    known = [(clip.text, a, b) for clip, a, b in zip(clips, one, other, strict=True) if clip.text is not None]
    if not any(text.split() for text, _, _ in known):
        return None, None, changed
    texts, first, second = (list(column) for column in zip(*known, strict=True))
    return rate_of(word_errors(texts, first)), rate_of(word_errors(texts, second)), changed


def _timed_clip(clips: Sequence[GateClip]) -> np.ndarray:
    """`SPEED_SECONDS` of the clips, one after the other, over and over."""
    joined = np.concatenate([clip.waveform for clip in clips])
    return np.resize(joined, int(SPEED_SECONDS * SAMPLE_RATE))

"""Every operating point of a model on the same recordings: errors, time, real-time factor, MACs and memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE, AudioError
from sewkit.bench.memory import peak_mib
from sewkit.bench.passes import Passes
from sewkit.bench.timing import environment
from sewkit.compute import Compute, macs, operating_points
from sewkit.curve import Curve, MeasuredPasses, MeasuredPoint
from sewkit.data.manifest import Utterance, load_utterance
from sewkit.errors import UserError
from sewkit.evaluate.bootstrap import Resampled
from sewkit.evaluate.normalize import find_normalizer
from sewkit.evaluate.scores import Heard, Scores
from sewkit.recognizer import Recognizer


def sweep(
    asr: Recognizer,
    utterances: Sequence[Utterance],
    data: dict[str, str],
    *,
    normalizer: str = "none",
    resampled: Resampled | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_error: Callable[[AudioError], None] | None = None,
    passes: Sequence[Passes] = (),
) -> Curve:
    """Transcribe each utterance at all points in turn, alone in its batch, so that a drift of the machine hits all.

    So it is with all of `passes`, the two passes to be tried.

    Times are from the samples to the words; reading the recording is not counted. Before, the longest clip is run once
    at each point, the cheapest first: that warms up, and gives the memory. data: SHA-256 of each manifest by name.
    on_progress: called with the seconds of sound done at all points. A recording that cannot be read goes to
    `on_error`, and is in no figure. Raises UserError where none can be read, or no reference has a word.
    """
    points = operating_points(asr.config)
    runs = _Runs(asr, [*map(Passes, points), *passes])
    missing = 0
    memory = runs.warm_up(max(utterances, key=lambda one: one.duration, default=None))
    for row, utterance in enumerate(utterances):
        try:
            waveform = load_utterance(utterance)
        except AudioError as error:
            missing += 1
            if on_error is not None:
                on_error(error)
            continue
        runs.hear(row, utterance, waveform)
        if on_progress is not None:
            on_progress(len(waveform) / SAMPLE_RATE)
    if not runs.seconds:
        raise UserError(f"none of {len(utterances)} recordings could be read")
    scores = {one: Scores(heard, find_normalizer(normalizer)) for one, heard in runs.heard.items()}
    figures = {one: runs.figures(one, scores[one], resampled) for one in runs.passes}
    some = scores[runs.passes[0]]
    return Curve(
        model=asr.name,
        data=data,
        num_clips=len(runs.seconds),
        num_missing=missing,
        audio_seconds=sum(runs.seconds),
        num_words=sum(counts.num_units for counts in some.words),
        normalizer=normalizer,
        interval=f"95 % bootstrap over {some.clusters(resampled).resampled}",
        device=str(runs.device),
        dtype=str(getattr(asr.runtime, "dtype", "float32")).removeprefix("torch."),
        environment=environment(),
        points=tuple(
            MeasuredPoint(
                macs_per_second=runs.macs_per_second(point),
                peak_memory_mib=memory.get(Passes(point)),
                **figures[Passes(point)],
            )
            for point in points
        ),
        two_passes=tuple(MeasuredPasses(**figures[one], **one.facts()) for one in passes),
    )


@dataclass
class _Runs:
    """What is known of each way to hear a clip so far."""

    asr: Recognizer
    passes: Sequence[Passes]
    seconds: list[float] = field(default_factory=list)
    """Of each clip."""
    heard: dict[Passes, list[Heard]] = field(init=False)
    times: dict[Passes, list[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.heard = {one: [] for one in self.passes}
        self.times = {one: [] for one in self.passes}
        self.device = torch.device(getattr(self.asr.runtime, "device", "cpu"))

    def warm_up(self, longest: Utterance | None) -> dict[Passes, float | None]:
        """Peak memory of each, none where the recording cannot be read."""
        try:
            waveform = None if longest is None else load_utterance(longest)
        except AudioError:
            waveform = None
        if waveform is None:
            return {}
        return {one: peak_mib(partial(self._text, waveform, one), self.device) for one in self.passes}

    def hear(self, row: int, utterance: Utterance, waveform: np.ndarray) -> None:
        """A clip in all ways; every clip begins with another one."""
        seconds = len(waveform) / SAMPLE_RATE
        for one in _rotated(self.passes, len(self.seconds)):
            start = time.perf_counter()
            text = self._text(waveform, one)
            self.times[one].append(time.perf_counter() - start)
            self.heard[one].append(
                Heard(
                    row=row,
                    name=utterance.name,
                    speaker=utterance.speaker,
                    seconds=seconds,
                    reference=utterance.text,
                    hypothesis=text,
                )
            )
        self.seconds.append(seconds)

    def _text(self, waveform: np.ndarray, passes: Passes) -> str:
        return self.asr.transcribe(waveform, compute=passes.first, refine=passes.refinement or False).text

    def macs_per_second(self, point: Compute) -> int:
        """Of a clip of mean length."""
        samples = int(np.mean(self.seconds) * SAMPLE_RATE)
        return round(sum(macs(self.asr.config, samples, point).values()) / samples * SAMPLE_RATE)

    def figures(self, passes: Passes, scores: Scores, resampled: Resampled | None) -> dict[str, Any]:
        """What points and two passes have in common."""
        try:
            wer, cer = scores.rates(scores.clusters(resampled))
        except ValueError as error:
            raise UserError(f"{error} after normalizer {scores.normalizer.name!r}; expected what is spoken") from error
        times = np.array(self.times[passes])
        rates = {"wer": wer.rate, "wer_low": wer.low, "wer_high": wer.high}
        rates |= {"cer": cer.rate, "cer_low": cer.low, "cer_high": cer.high}
        return {
            "point": str(passes.first),
            **rates,
            "seconds_median": float(np.median(times)),
            "seconds_p95": float(np.quantile(times, 0.95)),
            "real_time_factor": float(times.sum() / sum(self.seconds)),
        }


def _rotated(passes: Sequence[Passes], first: int) -> Iterator[Passes]:
    return (passes[(first + n) % len(passes)] for n in range(len(passes)))

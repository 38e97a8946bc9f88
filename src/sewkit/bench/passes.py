"""Two passes to try in a sweep: first points, and thresholds of doubt that the recordings themselves say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sewkit.audio import SAMPLE_RATE, AudioError
from sewkit.chunks import CHUNK_SECONDS
from sewkit.compute import FULL, Compute, Refinement, operating_points
from sewkit.config import ModelConfig
from sewkit.curve import Curve
from sewkit.data.manifest import Utterance, load_utterance
from sewkit.errors import UserError
from sewkit.recognizer import Recognizer
from sewkit.refine import Heard, grid, stretches

CLIP_SHARES = (0.1, 0.25, 0.5, 0.75)
"""Thresholds are tried at which these shares of the recordings have something that is heard again."""


@dataclass(frozen=True)
class Passes:
    """One way to hear a clip: at a point, and with a refinement what that is unsure of again."""

    first: Compute
    refinement: Refinement | None = None
    heard_again: float = 0.0
    """Share of all frames."""

    def facts(self) -> dict[str, Any]:
        """What `MeasuredPasses` has beside the figures of a point."""
        assert self.refinement is not None
        return {
            "second": str(self.refinement.compute),
            "threshold": self.refinement.threshold,
            "margin": self.refinement.margin,
            "heard_again": self.heard_again,
        }


def two_passes(
    asr: Recognizer,
    utterances: Sequence[Utterance],
    second: str | None = None,
    known: Curve | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> list[Passes]:
    """Two passes to be measured on these utterances, the second at `second`; `on_progress` gets seconds of sound.

    Those of the `known` curve, if it has any (with that second point, if one is given). Otherwise the first is the
    cheapest point or one without pooling, and the thresholds are quantiles, over the recordings, of the highest doubt
    in each. Of long recordings the first 30 seconds count. Raises UserError for a model without two points, or where
    no recording can be read.
    """
    if not asr.config.is_stochastic:
        raise UserError(f"{asr.name} has one operating point, {asr.resolve(None)}: there is nothing to refine it with")
    tried: Mapping[Compute, Sequence[Refinement]]
    again = asr.resolve(second or FULL)
    tried = _known(known, again if second else None) or dict.fromkeys(_firsts(asr, again), ())
    silent = asr.loaded.alphabet.silent if asr.loaded.alphabet else frozenset[int]()
    heard: dict[Compute, list[Heard]] = {first: [] for first in tried}
    for waveform in _readable(utterances):
        for first in tried:
            (logits,) = asr.runtime.logits([waveform], first)
            heard[first].append(Heard.of(logits, first.squeeze, silent))
        if on_progress is not None:
            on_progress(len(waveform) / SAMPLE_RATE)
    found = []
    for first, refinements in tried.items():
        highest = [float(one.doubts.max(initial=0)) for one in heard[first]]
        if not highest:
            raise UserError(f"none of {len(utterances)} recordings could be read")
        thresholds = np.unique(np.quantile(highest, [1 - share for share in CLIP_SHARES]))
        made = refinements or [Refinement(round(float(one), 4), again) for one in thresholds]
        found += [Passes(first, one, _share(asr.config, one, heard[first])) for one in made]
    return found


def _firsts(asr: Recognizer, second: Compute) -> list[Compute]:
    """The cheapest point, and one for each squeeze factor above the second pass's."""
    points = operating_points(asr.config)
    plain = [point for point in points if not point.is_pooled and point.squeeze > second.squeeze]
    return list(dict.fromkeys([points[0], *plain]))


def _known(curve: Curve | None, second: Compute | None) -> dict[Compute, list[Refinement]]:
    found: dict[Compute, list[Refinement]] = {}
    for one in curve.two_passes if curve else ():
        if second is None or one.refinement.compute == second:
            found.setdefault(one.compute, []).append(one.refinement)
    return found


def _readable(utterances: Iterable[Utterance]) -> Iterable[np.ndarray]:
    """Those that cannot be read are named by the sweep itself."""
    for utterance in utterances:
        try:
            yield load_utterance(utterance)[: int(CHUNK_SECONDS * SAMPLE_RATE)]
        except AudioError:
            continue


def _share(config: ModelConfig, refinement: Refinement, heard: Sequence[Heard]) -> float:
    """Of all frames, those that the second pass hears."""
    unit, margin = grid(config, refinement)
    found = [stretches(one, refinement.threshold, unit, margin) for one in heard]
    again = sum(one.last - one.first for of_clip in found for one in of_clip)
    return again / max(1, sum(one.num_frames for one in heard))

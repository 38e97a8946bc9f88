"""Intervals of rates by bootstrap (Bisani and Ney 2004), over utterances or, as these are not independent, speakers.

A rate is a ratio of sums over utterances, errors over words. A resample draws as many utterances (or speakers, with all
that they said) as there are, with replacement; the interval holds the middle share of the resamples' rates. Two systems
are compared on the same resamples: `errors` are then differences, which cancels what is hard for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sewkit.errors import UserError

Resampled = Literal["utterances", "speakers"]
MIN_SPEAKERS = 10
"""With fewer a bootstrap over them says little: its intervals are far too narrow, and jump with every draw."""
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
MAX_DRAWN = 2**22
"""Draws held at a time."""


@dataclass(frozen=True)
class Clusters:
    """What is drawn together. ids: (N,) the cluster of each utterance; `reason` is a sentence for the report."""

    ids: np.ndarray
    resampled: Resampled
    reason: str

    @classmethod
    def of_utterances(cls, num_utterances: int, why: str = "") -> Clusters:
        """Every utterance by itself."""
        return cls(
            np.arange(num_utterances),
            "utterances",
            f"{num_utterances} utterances were resampled as if independent{why}; those of one speaker are not, so the "
            "true uncertainty is larger.",
        )

    @classmethod
    def of_speakers(cls, speakers: Sequence[str]) -> Clusters:
        """All utterances of a speaker together. Raises UserError where one has none ("") or there is only one."""
        names, ids = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
        if "" in speakers or len(names) < 2:
            found = "utterances without a speaker" if "" in speakers else f"{len(names)}"
            raise UserError(f"resampling speakers needs several, known for every utterance; found {found}")
        reason = f"{len(names)} speakers were resampled, each with all their utterances, which are not independent."
        return cls(ids, "speakers", reason)

    @classmethod
    def choose(cls, speakers: Sequence[str], wanted: Resampled | None = None) -> Clusters:
        """Speakers where every utterance has one ("" is none), they are at least MIN_SPEAKERS and some speak twice.

        Else utterances. `wanted` overrules the choice. Raises UserError where speakers are wanted and cannot be had.
        """
        num_speakers, num_utterances = len(set(speakers)), len(speakers)
        if wanted == "speakers":
            return cls.of_speakers(speakers)
        if wanted == "utterances":
            return cls.of_utterances(num_utterances)
        if "" in speakers:
            return cls.of_utterances(num_utterances, " (not every speaker is known)")
        if num_speakers == num_utterances:
            return cls.of_utterances(num_utterances, " (each names a speaker of its own)")
        if num_speakers < MIN_SPEAKERS:
            return cls.of_utterances(num_utterances, f" (too few speakers to resample: {num_speakers})")
        return cls.of_speakers(speakers)


def resampled_rates(
    errors: np.ndarray, units: np.ndarray, clusters: np.ndarray, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> np.ndarray:
    """(N,) errors, (N,) words and (N,) clusters of utterances -> (num_resamples,) rates; the same for the same seed."""
    errors = np.bincount(clusters, weights=errors)
    units = np.bincount(clusters, weights=units)
    generator, size = np.random.default_rng(seed), len(errors)
    rates, step = np.empty(num_resamples), max(1, MAX_DRAWN // size)
    for start in range(0, num_resamples, step):
        drawn = generator.integers(size, size=(min(step, num_resamples - start), size))
        rates[start : start + step] = errors[drawn].sum(axis=1) / np.maximum(units[drawn].sum(axis=1), 1)
    return rates


def interval(rates: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The middle `confidence` of resampled rates."""
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

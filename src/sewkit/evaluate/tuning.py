"""Weights of a language model, chosen on a development set by a plain grid; logits are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sewkit.data.manifest import Utterance, load_utterance
from sewkit.decode import BeamSearch, FrameLabels, FusionWeights
from sewkit.decode.greedy import best_labels
from sewkit.evaluate.wer import word_errors
from sewkit.recognizer import Recognizer

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
BETAS = (-1.0, 0.0, 1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Trial:
    """Word errors on the whole set with one pair of weights."""

    alpha: float
    beta: float
    errors: int
    num_words: int

    @property
    def wer(self) -> float:
        """Word error rate, a fraction."""
        return self.errors / max(self.num_words, 1)


@dataclass(frozen=True)
class Tuning:
    """What was tried, and what it led to."""

    trials: list[Trial]
    weights: FusionWeights
    greedy_wer: float

    def table(self) -> str:
        """Word error rates, a row an alpha and a column a beta."""
        betas = sorted({trial.beta for trial in self.trials})
        rows = ["alpha \\ beta" + "".join(f"{beta:9g}" for beta in betas)]
        for alpha in sorted({trial.alpha for trial in self.trials}):
            rates = {trial.beta: trial.wer for trial in self.trials if trial.alpha == alpha}
            rows.append(f"{alpha:12g}" + "".join(f"{rates[beta]:9.1%}" for beta in betas))
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "weights": asdict(self.weights),
            "greedy_wer": self.greedy_wer,
            "trials": [{**asdict(trial), "wer": trial.wer} for trial in self.trials],
        }


def tune_lm(
    asr: Recognizer,
    search: BeamSearch,
    utterances: Sequence[Utterance],
    *,
    alphas: Iterable[float] = ALPHAS,
    betas: Iterable[float] = BETAS,
    on_progress: Callable[[float], None] | None = None,
) -> Tuning:
    """Try all pairs of weights on a development set; of equals, the pair nearest to the usual one is taken.

    on_progress is called with 1 for each pair. Raises AudioError for recordings that can't be read.
    """
    recorder = _Recorder()
    greedy = [transcript.text for transcript in asr.transcribe_batch(map(load_utterance, utterances), decoder=recorder)]
    references = [utterance.text for utterance in utterances]
    betas, trials = list(betas), []
    for weights in (search.weights.replace(alpha=alpha, beta=beta) for alpha in alphas for beta in betas):
        weighted = search.with_weights(weights)
        found = [weighted.decode(logits)[0].text for logits in recorder.logits]
        trials.append(Trial(weights.alpha, weights.beta, *_errors(references, found)))
        if on_progress is not None:
            on_progress(1)
    usual = FusionWeights()
    best = min(trials, key=lambda one: (one.errors, abs(one.alpha - usual.alpha) + abs(one.beta - usual.beta)))
    errors, num_words = _errors(references, greedy)
    return Tuning(trials, search.weights.replace(alpha=best.alpha, beta=best.beta), errors / max(num_words, 1))


def _errors(references: list[str], hypotheses: list[str]) -> tuple[int, int]:
    counts = word_errors(references, hypotheses)
    return sum(count.errors for count in counts), sum(len(reference.split()) for reference in references)


class _Recorder:
    """A decoder that decodes greedily and notes the logits of each recording, in the order of the recordings."""

    def __init__(self) -> None:
        self.logits: list[np.ndarray] = []

    def start(self) -> _Recording:
        return _Recording(self)


class _Recording:
    def __init__(self, recorder: _Recorder):
        self._recorder = recorder
        self._pieces: list[np.ndarray] = []

    def feed(self, logits: np.ndarray) -> None:
        self._pieces.append(logits)

    def labels(self) -> FrameLabels:
        logits = np.concatenate(self._pieces)
        self._recorder.logits.append(logits)
        return best_labels(logits)

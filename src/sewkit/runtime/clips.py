"""The contract of a runtime on top of an engine that runs whole clips, one at a time.

An exported graph hears one clip, see `graph.py`, so that what shares a call can change nothing, not even a scale of
int8. On a CPU a batch of long clips is no cheaper than the same clips one after the other; cores are kept busy by calls
side by side (`workers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from sewkit.compute import Compute, resolve
from sewkit.config import ModelConfig
from sewkit.lengths import min_samples, num_frames
from sewkit.runtime.graph import CLASS_SCORES, FRAMES, LOGITS


class Engine(Protocol):
    """What runs graphs."""

    def run(self, clip: np.ndarray, output: str, compute: Compute) -> np.ndarray:
        """(S,) float32 samples -> the output of that name, (1, ...), in an array of its own.

        Of frames there may be more than the clip has.
        """


def as_heard(waveform: np.ndarray, config: ModelConfig) -> np.ndarray:
    """(S,) samples as graphs take them: float32, normalised where the model wants them so, else about zero.

    Group norm takes an offset out again, but in bfloat16 it would have hidden the sound by then. `normalize_waveforms`
    of one clip in NumPy: PyTorch's threads stay awake for a while after such a call, and would take the other runtime's
    cores (3 ms of SEW-tiny's 52).
    """
    clip = np.ascontiguousarray(waveform, dtype=np.float32)
    if config.normalize_input or config.extractor_norm == "group":
        clip = clip - clip.mean()
    if config.normalize_input:
        clip /= np.sqrt(np.square(clip).mean() + np.float32(config.input_norm_eps))
    return clip


class ClipRuntime:
    """A `Runtime` on the CPU. Calls from several threads run side by side.

    unheard: what the head gives for a clip of too few samples for a squeezed frame, see `graph.unheard_outputs`.
    """

    def __init__(self, config: ModelConfig, unheard: Sequence[Sequence[float]], engine: Engine, dtype: str):
        self.config = config
        self.unheard = np.array(unheard, dtype=np.float32)
        self.engine = engine
        self.device = torch.device("cpu")
        self.dtype = dtype
        self.workers = torch.get_num_threads()

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """See `Runtime.logits`."""
        return self._run(LOGITS, waveforms, compute)

    def class_scores(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """See `Runtime.class_scores`."""
        return self._run(CLASS_SCORES, waveforms, compute)

    def encode(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        """See `Runtime.encode`."""
        return self._run(FRAMES, waveforms, compute)

    def _run(self, output: str, waveforms: Sequence[np.ndarray], compute: Compute | None) -> list[np.ndarray]:
        point = resolve(self.config, compute)
        shortest = min_samples(self.config.conv_layers, point.squeeze)
        results = []
        for waveform in waveforms:
            frames = num_frames(len(waveform), self.config.conv_layers)
            if len(waveform) < shortest:
                results.append(self._unheard(output, frames))
                continue
            found = self.engine.run(as_heard(waveform, self.config), output, point)[0]
            results.append(found if output == CLASS_SCORES else found[:frames])
        return results

    def _unheard(self, output: str, frames: int) -> np.ndarray:
        """The output for a clip of so few frames, none of which reached the encoder."""
        if output == FRAMES:
            return np.zeros((frames, self.config.hidden_size), np.float32)
        if output == LOGITS:
            return np.tile(self.unheard[0], (frames, 1))
        return self.unheard[min(frames, 1)]

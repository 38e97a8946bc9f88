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
        """(1, S) float32 samples -> the output of that name, (1, ...), in an array of its own."""


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
            if len(waveform) < shortest:
                results.append(self._unheard(output, num_frames(len(waveform), self.config.conv_layers)))
                continue
            clip = np.ascontiguousarray(waveform, dtype=np.float32)[None]
            results.append(self.engine.run(clip, output, point)[0])
        return results

    def _unheard(self, output: str, frames: int) -> np.ndarray:
        """The output for a clip of so few frames, none of which reached the encoder."""
        if output == FRAMES:
            return np.zeros((frames, self.config.hidden_size), np.float32)
        if output == LOGITS:
            return np.tile(self.unheard[0], (frames, 1))
        return self.unheard[min(frames, 1)]

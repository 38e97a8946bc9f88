"""What the recognizer asks of a decoder: labels for frames, of recordings whose logits come in pieces."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from sewkit.decode.greedy import FrameLabels


class DecodingState(Protocol):
    """One recording on its way."""

    def feed(self, logits: np.ndarray) -> None:
        """Take the next (T, V) logits."""

    def labels(self) -> FrameLabels:
        """Labels of all frames fed; the recording is at its end."""


class Decoder(Protocol):
    """A way from logits to labels, such as `GreedySearch` and `BeamSearch`."""

    def start(self) -> DecodingState:
        """Begin a recording."""

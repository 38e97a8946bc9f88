"""Text that is final before a long recording is: what streamed answers tell chunk by chunk."""

from __future__ import annotations

import numpy as np

from sewkit.decode import FrameLabels, FrameTiming, decode_words
from sewkit.pieces import Recording, Stitched
from sewkit.text import Alphabet


class Deltas:
    """New text of a recording that is decoded greedily, up to the last space between words that cannot move any more.

    Joined, the deltas are the beginning of the transcript's text.
    """

    def __init__(self, alphabet: Alphabet):
        self._alphabet = alphabet
        self._gaps = [index for index, token in enumerate(alphabet.tokens) if token == alphabet.delimiter]
        self._begin = 0  # frame of the first label that was not told
        self._has_told = False

    def settled(self, recording: Recording[Stitched]) -> str:
        """What is new since the last call."""
        if not recording.kept or (begun := recording.kept[0]) is None:
            return ""
        labels = begun.state.labels()
        fresh = FrameLabels(labels.ids[self._begin :], labels.probabilities[self._begin :])
        spaces = np.flatnonzero(np.isin(fresh.ids, self._gaps))
        if not len(spaces):
            return ""
        end = int(spaces[-1]) + 1
        self._begin += end
        words = decode_words(FrameLabels(fresh.ids[:end], fresh.probabilities[:end]), self._alphabet, _ANY_TIMING)
        text = " ".join(word.text for word in words)
        if not text:
            return ""
        text = f" {text}" if self._has_told else text
        self._has_told = True
        return text


_ANY_TIMING = FrameTiming(1, 1, 1)
"""The words' times are not looked at."""

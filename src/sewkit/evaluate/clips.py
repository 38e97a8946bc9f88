"""Sound for reports: compressed clips, as many as fit."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import soundfile

from sewkit.audio import SAMPLE_RATE, AudioError
from sewkit.data.manifest import Utterance, load_utterance

CLIP_SECONDS = 60
"""Longer utterances are cut."""
MAX_BYTES = 12 * 2**20
"""Of all clips of a report together, before base64 makes them a third larger."""
_BLOCK = 10 * SAMPLE_RATE


class Clips:
    """Gives a clip for a row of a manifest, while there is room for it."""

    def __init__(self, utterances: list[Utterance], max_bytes: int = MAX_BYTES) -> None:
        self.utterances = utterances
        self.room = max_bytes
        self._made: dict[int, bytes] = {}

    def clip(self, row: int) -> tuple[bytes | None, str]:
        """(Ogg file with Opus or None, what to say about it). The same clip takes room once."""
        utterance = self.utterances[row]
        try:
            clip = self._made.get(row) or compressed(load_utterance(utterance)[: CLIP_SECONDS * SAMPLE_RATE])
        except AudioError as error:
            return None, f"No sound: {error.problem}"
        if row not in self._made:
            if len(clip) > self.room:
                return None, "No sound: the report's room for sound is used up."
            self.room -= len(clip)
            self._made[row] = clip
        return clip, f"The first {CLIP_SECONDS} s." if utterance.duration > CLIP_SECONDS else ""


def compressed(waveform: np.ndarray) -> bytes:
    """(S,) float32 at 16 kHz -> an Ogg file with Opus, which browsers play; about 5 kB a second."""
    file = BytesIO()
    with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, format="OGG", subtype="OPUS", compression_level=0.85) as sound:
        for start in range(0, len(waveform), _BLOCK):  # libsndfile's encoders overrun their stack on long blocks
            sound.write(np.clip(waveform[start : start + _BLOCK], -1, 1))
    return file.getvalue()

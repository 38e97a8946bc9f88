"""A padded batch of waveforms with their labels."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from sewkit.text import Alphabet


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B utterances; padding is zeros behind each one."""

    waveforms: Tensor
    """(B, S) float32 at 16 kHz."""
    sample_lengths: Tensor
    """(B,) int64."""
    labels: Tensor
    """(sum of label_lengths,) int64, one utterance after the other."""
    label_lengths: Tensor
    """(B,) int64; 0 for an utterance without speech."""
    texts: list[str]
    spans: list[list[tuple[int, int]]] = field(default_factory=list)
    """For strings: (first sample, end) of the sound of each word, a list an utterance."""


def make_batch(waveforms: list[np.ndarray], texts: list[str], alphabet: Alphabet, pad_to: int = 1) -> Batch:
    """Pad to the longest, rounded up to a multiple of `pad_to` samples (few distinct lengths are cheaper)."""
    lengths = torch.tensor([waveform.size for waveform in waveforms])
    width = -(-int(lengths.max()) // pad_to) * pad_to
    padded = np.zeros((len(waveforms), width), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: waveform.size] = waveform
    labels = [alphabet.encode(text) for text in texts]
    return Batch(
        waveforms=torch.from_numpy(padded),
        sample_lengths=lengths,
        labels=torch.tensor([label for letters in labels for label in letters], dtype=torch.int64),
        label_lengths=torch.tensor([len(letters) for letters in labels]),
        texts=texts,
    )

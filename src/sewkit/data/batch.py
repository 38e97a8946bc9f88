"""A padded batch of waveforms with their labels, and the seeds of its rows."""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sewkit.audio import SAMPLE_RATE
from sewkit.compute import Compute
from sewkit.text import Alphabet


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B utterances; padding is zeros behind each one.

    B may be 0: a process whose share of a small update has no rows still takes part in it.
    """

    waveforms: Tensor
    """(B, S) float32 at 16 kHz."""
    sample_lengths: Tensor
    """(B,) int64."""
    labels: Tensor
    """(sum of label_lengths,) int64, one utterance after the other."""
    label_lengths: Tensor
    """(B,) int64; 0 for an utterance without speech."""
    texts: list[str]
    seeds: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """(B,) int64: what is random about a row is drawn from its seed. Zeros where none are given."""
    spans: list[list[tuple[int, int]]] = field(default_factory=list)
    """For strings: (first sample, end) of the sound of each word, a list an utterance."""
    time_mask: Tensor | None = None
    """(B, T) bool, True on masked frames; pre-training fills it in."""
    group_seeds: Tensor | None = None
    """(G,) int64: for crops, the seeds of all rows of the group on all processes, in one order on all of them."""
    group_rows: Tensor | None = None
    """(B,) int64: the places of this batch's rows in `group_seeds`."""
    classes: Tensor | None = None
    """(B,) int64, for classification."""
    compute: Compute | None = None
    """The operating point to train at; None: the model's dearest, which of a fixed model is the only one."""

    def __post_init__(self) -> None:
        if len(self.seeds) != len(self.waveforms):
            assert len(self.seeds) == 0, (len(self.seeds), len(self.waveforms))
            object.__setattr__(self, "seeds", torch.zeros(len(self.waveforms), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.waveforms)

    def to(self, device: torch.device) -> "Batch":
        """The batch with its tensors on a device."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = value.to(device)
        return Batch(**values)


def make_batch(
    waveforms: list[np.ndarray],
    texts: list[str],
    alphabet: Alphabet | None,
    pad_to: int = 1,
    seeds: np.ndarray | None = None,
    classes: np.ndarray | None = None,
) -> Batch:
    """Pad to the longest, rounded up to a multiple of `pad_to` samples (few distinct lengths are cheaper).

    Without an alphabet the texts give no labels. Of no waveforms a batch of no rows is made, a second wide.
    """
    lengths = torch.tensor([waveform.size for waveform in waveforms], dtype=torch.int64)
    longest = int(lengths.max()) if waveforms else SAMPLE_RATE
    padded = np.zeros((len(waveforms), -(-longest // pad_to) * pad_to), dtype=np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[: waveform.size] = waveform
    labels = [alphabet.encode(text) if alphabet else [] for text in texts]
    return Batch(
        waveforms=torch.from_numpy(padded),
        sample_lengths=lengths,
        labels=torch.tensor([label for letters in labels for label in letters], dtype=torch.int64),
        label_lengths=torch.tensor([len(letters) for letters in labels], dtype=torch.int64),
        texts=texts,
        seeds=torch.from_numpy(seeds if seeds is not None else np.zeros(len(waveforms), dtype=np.int64)),
        classes=None if classes is None else torch.from_numpy(classes.astype(np.int64)),
    )


def row_seeds(seed: int, update: int, rows: np.ndarray) -> np.ndarray:
    """(B,) numbers of utterances -> (B,) int64, each a hash of (seed, update, its number)."""
    states = [np.random.SeedSequence((seed, update, int(row))).generate_state(1, np.uint64)[0] for row in rows]
    return (np.array(states, dtype=np.uint64) >> np.uint64(1)).astype(np.int64)

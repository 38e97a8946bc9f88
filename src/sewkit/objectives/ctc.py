"""Connectionist temporal classification on letters (Graves et al. 2006; wav2vec 2.0 section 3.3).

Differs from fairseq's criterion in one thing: the sum over the batch is divided by its letters, not by its sentences,
so that batches of single words and of long strings weigh the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sewkit.data.batch import Batch
from sewkit.model.model import Masks


def needed_frames(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """(B,) fewest frames that can spell each row: its letters plus one blank between equal neighbours."""
    rows = torch.repeat_interleave(torch.arange(label_lengths.numel()), label_lengths)
    repeats = (labels[1:] == labels[:-1]) & (rows[1:] == rows[:-1])
    return label_lengths + torch.zeros_like(label_lengths).index_add_(0, rows[1:], repeats.long())


def is_feasible(labels: Tensor, label_lengths: Tensor, frame_lengths: Tensor) -> Tensor:
    """(B,) bool: the row has enough frames for its labels. Others have no alignment and an infinite loss."""
    return frame_lengths >= needed_frames(labels, label_lengths)


def ctc_loss(
    model: Callable[..., tuple[Tensor, Tensor]], batch: Batch, masks: Masks | None = None, blank: int = 0
) -> tuple[Tensor, dict[str, float]]:
    """Loss per letter, and metrics: the loss and how many rows were infeasible (they count 0)."""
    logits, frame_lengths = model(batch.waveforms, batch.sample_lengths, masks=masks)
    log_probs = functional.log_softmax(logits.float(), dim=-1).transpose(0, 1)
    total = functional.ctc_loss(
        log_probs,
        batch.labels,
        frame_lengths,
        batch.label_lengths,
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )
    loss = total / max(int(batch.label_lengths.sum()), 1)
    infeasible = int((~is_feasible(batch.labels, batch.label_lengths, frame_lengths)).sum())
    return loss, {"loss": float(loss.detach()), "infeasible": infeasible}

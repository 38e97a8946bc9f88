"""Connectionist temporal classification on letters (Graves et al. 2006; wav2vec 2.0 section 3.3).

Differs from fairseq's criterion in one thing: the sum over the batch is divided by its letters, not by its sentences,
so that batches of single words and of long strings weigh the same.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sewkit.data.batch import Batch
from sewkit.model.model import Masks, SpeechModel


def needed_frames(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """(B,) fewest frames that can spell each row: its letters plus one blank between equal neighbours."""
    rows = torch.repeat_interleave(torch.arange(label_lengths.numel()), label_lengths)
    repeats = (labels[1:] == labels[:-1]) & (rows[1:] == rows[:-1])
    return label_lengths + torch.zeros_like(label_lengths).index_add_(0, rows[1:], repeats.long())


def is_feasible(labels: Tensor, label_lengths: Tensor, frame_lengths: Tensor) -> Tensor:
    """(B,) bool: the row has enough frames for its labels. Others have no alignment and an infinite loss."""
    return frame_lengths >= needed_frames(labels, label_lengths)


def letter_scores(
    model: SpeechModel, batch: Batch, masks: Masks | None, intermediate: bool
) -> tuple[list[Tensor], Tensor]:
    """[(B, T, V)] of the last layer and, if `intermediate`, of the middle one by the same head; and (B,) frames."""
    if not intermediate:
        scores, frame_lengths = model(batch.waveforms, batch.sample_lengths, masks=masks)
        return [scores], frame_lengths
    encoded = model.encode(batch.waveforms, batch.sample_lengths, masks=masks)
    assert model.head is not None
    middle = encoded.states[len(encoded.states) // 2]
    if model.upsample is not None:
        middle = model.upsample(middle, encoded.lengths, encoded.frames.shape[1])
    return [model.head(encoded.frames), model.head(middle)], encoded.lengths


def ctc_loss(
    model: SpeechModel, batch: Batch, masks: Masks | None = None, blank: int = 0, intermediate_weight: float = 0.0
) -> tuple[Tensor, dict[str, float]]:
    """Loss per letter, and metrics: the loss and how many rows were infeasible (they count 0).

    With `intermediate_weight` w the loss is (1 - w) of the last layer plus w of the middle one, which gives the lower
    layers a shorter way to the labels (intermediate CTC, arXiv 2102.03216).
    """
    scores, frame_lengths = letter_scores(model, batch, masks, intermediate_weight > 0)
    losses = [_loss_per_letter(logits, frame_lengths, batch, blank) for logits in scores]
    loss = losses[0] if len(losses) == 1 else (1 - intermediate_weight) * losses[0] + intermediate_weight * losses[1]
    infeasible = int((~is_feasible(batch.labels, batch.label_lengths, frame_lengths)).sum())
    return loss, {"loss": float(losses[0].detach()), "infeasible": infeasible}


def _loss_per_letter(logits: Tensor, frame_lengths: Tensor, batch: Batch, blank: int) -> Tensor:
    """(B, T, V) -> the summed loss over the letters of the batch."""
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
    return total / max(int(batch.label_lengths.sum()), 1)

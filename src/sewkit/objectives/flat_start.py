"""A flat start for letters: cross-entropy on frames, each word's letters spread evenly over its sound.

The words of a joined string are known to a few hundredths of a second, so every frame can be given a label: the letters
of a word in equal shares, the delimiter in the middle of a pause, the blank elsewhere. Crude, but it leads off the
plateau on which CTC from random weights predicts letter frequencies; CTC then finds the true alignment.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sewkit.config import Masking
from sewkit.data.batch import Batch
from sewkit.model import SpeechModel
from sewkit.objectives.loss import Loss, Objective
from sewkit.objectives.masking import masks_of_batch
from sewkit.text import Alphabet

HOP_SAMPLES = 320
HALF_FIELD_SAMPLES = 200
IGNORED = -100
BLANK_WEIGHT = 0.3


def frame_labels(batch: Batch, frame_lengths: Tensor, num_frames: int, alphabet: Alphabet) -> Tensor:
    """(B, T) int64: a label for every valid frame, IGNORED beyond."""
    labels = torch.full((len(batch.texts), num_frames), alphabet.blank)
    for row, text, spans in zip(labels, batch.texts, batch.spans, strict=True):
        previous_end = None
        for word, (first, end) in zip(text.split(), spans, strict=True):
            start_frame, end_frame = _frame(first), max(_frame(end), _frame(first) + 1)
            if previous_end is not None and alphabet.delimiter is not None:
                row[(previous_end + start_frame) // 2] = alphabet.ids[alphabet.delimiter]
            letters = torch.tensor(alphabet.encode(word))
            places = torch.arange(start_frame, min(end_frame, num_frames))
            row[places] = letters[(places - start_frame) * len(letters) // (end_frame - start_frame)]
            previous_end = end_frame
    return labels.masked_fill(torch.arange(num_frames) >= frame_lengths.cpu()[:, None], IGNORED)


def _frame(sample: int) -> int:
    """The frame whose field is centred nearest to a sample."""
    return max(0, round((sample - HALF_FIELD_SAMPLES) / HOP_SAMPLES))


class FlatStart(Objective):
    """Cross-entropy of frames; letters and blanks are averaged apart, so that the many blanks do not drown them."""

    def __init__(self, model: SpeechModel, alphabet: Alphabet, masking: Masking | None = None) -> None:
        super().__init__()
        self.model = model
        self.alphabet = alphabet
        self.masking = masking

    def forward(self, batch: Batch, update: int = 0) -> Loss:
        """Mean over letters plus 0.3 of the mean over blanks; counts 1, so that micro-batches weigh the same."""
        masks = masks_of_batch(self.masking, self.model.config, batch)
        logits, frame_lengths = self.model(batch.waveforms, batch.sample_lengths, batch.compute, masks)
        labels = frame_labels(batch, frame_lengths, logits.shape[1], self.alphabet).to(logits.device)
        losses = functional.cross_entropy(
            logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
        )
        silent, spoken = labels == self.alphabet.blank, (labels != self.alphabet.blank) & (labels != IGNORED)
        total = _mean(losses, spoken) + BLANK_WEIGHT * _mean(losses, silent)
        return Loss(total, 1, {"right_letters": _mean((logits.argmax(dim=-1) == labels).float(), spoken)})


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return (values * where).sum() / where.sum().clamp(min=1)

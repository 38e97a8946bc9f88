"""A flat start for letters: cross-entropy on frames, each word's letters spread evenly over its sound.

The words of a joined string are known to a few hundredths of a second, so every frame can be given a label: the letters
of a word in equal shares, the delimiter in the middle of a pause, the blank elsewhere. Crude, but it leads off the
plateau on which CTC from random weights predicts letter frequencies; CTC then finds the true alignment.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sewkit.data.batch import Batch
from sewkit.model.model import Masks
from sewkit.text import Alphabet

HOP_SAMPLES = 320
HALF_FIELD_SAMPLES = 200
IGNORED = -100


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
    return labels.masked_fill(torch.arange(num_frames) >= frame_lengths[:, None], IGNORED)


def _frame(sample: int) -> int:
    """The frame whose field is centred nearest to a sample."""
    return max(0, round((sample - HALF_FIELD_SAMPLES) / HOP_SAMPLES))


def flat_start_loss(
    model: Callable[..., tuple[Tensor, Tensor]], batch: Batch, alphabet: Alphabet, masks: Masks | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Mean cross-entropy of a frame; letters weigh as much as blanks together do."""
    logits, frame_lengths = model(batch.waveforms, batch.sample_lengths, masks=masks)
    labels = frame_labels(batch, frame_lengths, logits.shape[1], alphabet)
    losses = functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    silent, spoken = labels == alphabet.blank, (labels != alphabet.blank) & (labels != IGNORED)
    loss = losses[spoken].sum() / spoken.sum().clamp(min=1) + 0.3 * losses[silent].sum() / silent.sum().clamp(min=1)
    right = (logits.argmax(dim=-1) == labels)[spoken].float().mean() if bool(spoken.any()) else torch.tensor(0.0)
    return loss, {"loss": float(loss.detach()), "right_letters": float(right)}

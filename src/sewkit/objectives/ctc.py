"""Connectionist temporal classification on letters (Graves et al. 2006; wav2vec 2.0 section 3.3).

Differs from fairseq's criterion in one thing: the sum over an update is divided by its letters, not by its sentences,
so that batches of single words and of long strings weigh the same.
"""

from torch import Tensor
from torch.nn import functional

from sewkit.config import Masking
from sewkit.data.batch import Batch
from sewkit.lengths import needed_frames
from sewkit.model import SpeechModel
from sewkit.objectives.loss import Loss, Objective
from sewkit.objectives.masking import masks_of_batch


class CTC(Objective):
    """Letters from every frame, with SpecAugment's masks.

    With `intermediate_weight` w the loss is (1 - w) of the last layer plus w of the middle one by the same head, which
    gives the lower layers a shorter way to the labels (intermediate CTC, arXiv 2102.03216).
    """

    def __init__(
        self, model: SpeechModel, blank: int = 0, masking: Masking | None = None, intermediate_weight: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.blank = blank
        self.masking = masking
        self.intermediate_weight = intermediate_weight

    def forward(self, batch: Batch, update: int = 0) -> Loss:
        """Summed over letters. Rows with more text than their frames can spell count 0; `infeasible` is their share."""
        scores, frame_lengths = self.letter_scores(batch)
        losses = [self.summed_loss(logits, frame_lengths, batch) for logits in scores]
        weights = (1 - self.intermediate_weight, self.intermediate_weight)
        total = sum((w * loss for w, loss in zip(weights, losses, strict=False)), start=losses[0].new_zeros(()))
        count = int(batch.label_lengths.sum())
        needed = needed_frames(batch.labels, batch.label_lengths)
        infeasible = (frame_lengths < needed).float().sum() / max(len(batch), 1)
        return Loss(total, count, {"ctc": losses[0].detach() / max(count, 1), "infeasible": infeasible})

    def letter_scores(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """[(B, T, V)] of the last layer and, where it has a weight, of the middle one; and (B,) frames."""
        masks = masks_of_batch(self.masking, self.model.config, batch)
        encoded = self.model.encode(batch.waveforms, batch.sample_lengths, batch.compute, masks)
        assert self.model.head is not None
        scores = [self.model.head(encoded.frames)]
        if self.intermediate_weight:
            middle = encoded.states[len(encoded.states) // 2]
            num_frames = encoded.frames.shape[1]
            scores.append(self.model.head(self.model.unsqueeze(middle, encoded.lengths, num_frames, batch.compute)))
        return scores, encoded.lengths

    def summed_loss(self, logits: Tensor, frame_lengths: Tensor, batch: Batch) -> Tensor:
        """(B, T, V) -> the loss summed over the letters of the batch; log-softmax in float32."""
        if not len(batch):
            return logits.float().sum()  # 0, of no rows, but with a way back: every process takes part in an update
        log_probs = functional.log_softmax(logits.float(), dim=-1).transpose(0, 1)
        return functional.ctc_loss(
            log_probs,
            batch.labels,
            frame_lengths,
            batch.label_lengths,
            blank=self.blank,
            reduction="sum",
            zero_infinity=True,
        )

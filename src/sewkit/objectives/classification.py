"""Classification of whole utterances: whose voice, what wish, which emotion or language (SUPERB, arXiv 2105.01051)."""

from __future__ import annotations

from torch.nn import functional

from sewkit.config import Masking
from sewkit.data.batch import Batch
from sewkit.model import SpeechModel
from sewkit.objectives.loss import Loss, Objective
from sewkit.objectives.masking import masks_of_batch


class Classify(Objective):
    """Cross-entropy of each utterance's class, with SpecAugment's masks.

    The model has a classification head; where it mixes layers, the mix is learned here too.
    """

    def __init__(self, model: SpeechModel, masking: Masking | None = None) -> None:
        super().__init__()
        self.model = model
        self.masking = masking

    def forward(self, batch: Batch, update: int = 0) -> Loss:
        """Summed over the batch's utterances, whose classes are `batch.classes`, (B,) int64."""
        assert batch.classes is not None
        masks = masks_of_batch(self.masking, self.model.config, batch)
        scores, _ = self.model(batch.waveforms, batch.sample_lengths, batch.compute, masks)
        total = functional.cross_entropy(scores.float(), batch.classes, reduction="sum")
        right = (scores.detach().argmax(dim=1) == batch.classes).float().sum()
        count = max(len(batch), 1)
        return Loss(total, len(batch), {"cross_entropy": total.detach() / count, "accuracy": right / count})

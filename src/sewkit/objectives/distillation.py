"""Knowledge distillation (Hinton et al. 2015, arXiv 1503.02531): a finished model teaches its letters, frame by frame.

For a fixed model that is made stochastic, begun from its own teacher: at each operating point it is to hear what the
teacher hears, which says more of a frame than the transcript does, and at the teacher's own point it has nothing to lose.
Frames of the two mean the same stretch of sound at every squeeze factor, as all are up-sampled to one rate.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sewkit.compute import resolve
from sewkit.data.batch import Batch
from sewkit.errors import UserError
from sewkit.lengths import hop_samples, informed_length, valid_mask
from sewkit.model import SpeechModel


class Teacher:
    """A finished CTC model; not a module, so that who holds it neither trains nor saves it."""

    def __init__(self, model: SpeechModel, device: torch.device | str = "cpu") -> None:
        self.model = model.to(device).eval().requires_grad_(False)

    def check(self, student: SpeechModel) -> None:
        """Raises UserError for a student of another frame rate, or with another number of letters."""
        mine, its = self.model.config, student.config
        for name, have, expected in (
            ("samples a frame", hop_samples(mine.conv_layers), hop_samples(its.conv_layers)),
            ("letters", mine.vocab_size, its.vocab_size),
        ):
            if have != expected:
                raise UserError(f"teacher: it has {have} {name}; expected {expected}, as of the model in training")

    def divergence(self, logits: Tensor, frame_lengths: Tensor, batch: Batch) -> Tensor:
        """KL(teacher || student) summed over frames, of a student's logits (B, T, V) at the batch's operating point.

        The teacher hears the batch unmasked, at its dearest point. Left out are the frames that nothing was heard of:
        padding, and the last ones that do not fill a squeezed frame.

        frame_lengths: (B,), the student's frames that it has heard, see `informed_length`.
        """
        with torch.no_grad():
            expected, lengths = self.model(batch.waveforms, batch.sample_lengths)
            lengths = torch.minimum(informed_length(lengths, resolve(self.model.config, None).squeeze), frame_lengths)
        num_frames = min(expected.shape[1], logits.shape[1])
        heard, expected = (scores[:, :num_frames].float().log_softmax(dim=-1) for scores in (logits, expected))
        frames = functional.kl_div(heard, expected, reduction="none", log_target=True).sum(dim=-1)
        return frames.masked_fill(~valid_mask(lengths, num_frames), 0.0).sum()

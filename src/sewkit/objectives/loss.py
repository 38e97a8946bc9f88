"""What every objective is and returns: a sum, what it was summed over, and what is worth watching."""

from typing import NamedTuple

from torch import Tensor, nn

from sewkit.model import SpeechModel


class Loss(NamedTuple):
    """The loss of one batch; an update's gradient is that of the sum of totals over the sum of counts."""

    total: Tensor
    """Scalar, summed over the rows of the batch."""
    count: int  # type: ignore[assignment]
    """What it was summed over: letters, masked frames, utterances."""
    metrics: dict[str, Tensor]
    """Detached scalars, means over the batch; the loop averages them weighted by `count`."""


class Objective(nn.Module):
    """A loss with the model that it trains and the heads that it needs beside.

    forward(batch, update) -> Loss. Whatever it draws comes from the seeds of the batch's rows.
    """

    model: SpeechModel

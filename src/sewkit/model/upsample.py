"""Up-sampling: U squeezed frames -> T frames, the way back from `squeeze.py` (SEW section 4.3).

All detail finer than a squeezed frame passes through one linear layer; nothing is added from before the squeeze. A
stochastic model has such a layer for each factor, so that any one of them is a plain SEW.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.lengths import informed_length, zero_padding


class Upsample(nn.Module):
    """Linear H -> s * H, GELU; each squeezed frame becomes s neighbouring frames. SEW keeps it at s = 1."""

    def __init__(self, hidden_size: int, factor: int):
        super().__init__()
        self.factor = factor
        self.linear = nn.Linear(hidden_size, factor * hidden_size)
        nn.init.kaiming_normal_(self.linear.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)
        self.activation = nn.GELU()

    def forward(self, x: Tensor, lengths: Tensor, num_frames: int) -> Tensor:
        """(B, U, H) -> (B, num_frames, H). `lengths` are un-squeezed; a tail short of a squeezed frame is exactly 0."""
        batch, num_squeezed, hidden_size = x.shape
        x = self.activation(self.linear(x)).reshape(batch, num_squeezed * self.factor, hidden_size)
        x = zero_padding(x, informed_length(lengths, self.factor))
        return F.pad(x, (0, 0, 0, num_frames - x.shape[1]))


class Upsamples(nn.ModuleDict):
    """A stochastic model's up-sampling by squeeze factor, in digits; without an entry frames stay as they are."""

    def forward(self, x: Tensor, lengths: Tensor, num_frames: int, factor: int) -> Tensor:
        """(B, U, H) of frames squeezed by `factor` -> (B, num_frames, H), see `Upsample`."""
        return self[str(factor)](x, lengths, num_frames) if str(factor) in self else x

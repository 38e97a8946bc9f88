"""Squeezing: T frames -> U = floor(T / s) frames (SEW section 4.3, figure 3).

Two parallel branches read the same frames: a strided, grouped convolution that carries position, and an average pool.
Their sum, cut to the shorter, goes into the encoder. wav2vec 2.0 is the case s = 1: x + position(x).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.config import ModelConfig
from sewkit.lengths import squeezed_length, zero_padding


class PositionalConv(nn.Module):
    """Grouped convolution over frames with weight normalisation: one gain for each tap of the kernel (fairseq: dim=2).

    `weight_g` (1, 1, K) and `weight_v` (H, H / groups, K) are the names fairseq and older transformers use.
    """

    def __init__(self, hidden_size: int, kernel: int, groups: int):
        super().__init__()
        self.groups = groups
        std = math.sqrt(4 / (kernel * hidden_size))
        self.weight_v = nn.Parameter(torch.randn(hidden_size, hidden_size // groups, kernel) * std)
        self.weight_g = nn.Parameter(self._tap_norms().detach())
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def _tap_norms(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight_v, dim=(0, 1), keepdim=True)

    def weight(self) -> Tensor:
        """(H, H / groups, K), normalised."""
        return self.weight_v * (self.weight_g / self._tap_norms())

    def forward(self, x: Tensor, stride: int) -> Tensor:
        """(B, T, H) -> (B, ceil(T / stride), H). An even kernel gives one frame too many: the last is dropped."""
        kernel = self.weight_v.shape[2]
        y = F.conv1d(x.transpose(1, 2), self.weight(), self.bias, stride, padding=kernel // 2, groups=self.groups)
        if kernel % 2 == 0:
            y = y[:, :, :-1]
        return F.gelu(y).transpose(1, 2)


class Squeeze(nn.Module):
    """Average pool plus positional convolution, both with stride s."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.position = PositionalConv(config.hidden_size, config.pos_conv_kernel, config.pos_conv_groups)

    def forward(self, x: Tensor, lengths: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        """(B, T, H), (B,) -> (B, floor(T / factor), H), (B,).

        Padding is zeroed first: the convolution sees across the end of an utterance. Whole pooling windows inside an
        utterance never touch padding.
        """
        x = zero_padding(x, lengths)
        position = self.position(x, factor)
        pooled = F.avg_pool1d(x.transpose(1, 2), factor).transpose(1, 2) if factor > 1 else x
        return pooled + position[:, : pooled.shape[1]], squeezed_length(lengths, factor)

"""Waveform feature extractor: samples -> frames at 50 Hz (wav2vec 2.0 section 2; SEW's compact WFE-C section 4.2).

The two differ in their list of convolutions only. Nothing is padded, so a valid frame sees valid samples only; the one
thing that crosses frames is the group norm over time, whose statistics are taken over each utterance's own frames.
(The original and transformers let padding into them, so that there a result depends on what shares the batch.)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.config import ModelConfig
from sewkit.lengths import conv_length, valid_mask


def normalize_waveforms(waveforms: Tensor, lengths: Tensor, eps: float) -> Tensor:
    """(B, S) waveforms to zero mean and unit variance over their own samples, padding to 0."""
    valid = valid_mask(lengths, waveforms.shape[1])
    count = lengths.clamp(min=1)[:, None]
    waveforms = waveforms.masked_fill(~valid, 0.0)
    centered = (waveforms - waveforms.sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
    variance = centered.square().sum(1, keepdim=True) / count
    return centered * torch.rsqrt(variance + eps)


class InstanceNorm(nn.Module):
    """Per-channel normalisation over an utterance's valid frames (fairseq: a GroupNorm of C groups)."""

    def __init__(self, num_channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.eps = eps

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, C, T) -> (B, C, T); statistics in float32."""
        if bool((lengths == x.shape[2]).all()):
            return F.group_norm(x.float(), len(self.weight), self.weight.float(), self.bias.float(), self.eps).to(x)
        valid = valid_mask(lengths, x.shape[2])[:, None]
        count = lengths.clamp(min=1)[:, None, None]
        wide = x.float().masked_fill(~valid, 0.0)
        mean = wide.sum(2, keepdim=True) / count
        variance = (wide - mean).masked_fill(~valid, 0.0).square().sum(2, keepdim=True) / count
        scale = self.weight[:, None] * torch.rsqrt(variance + self.eps)
        return (wide * scale + (self.bias[:, None] - mean * scale)).to(x)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each frame, as wav2vec 2.0 large (LV-60k) has after every convolution."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        """(B, C, T) -> (B, C, T); each frame by itself, so lengths play no part."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class ConvBlock(nn.Module):
    """Convolution without padding, normalisation where there is one, GELU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, bias: bool, norm: nn.Module | None
    ):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride, bias=bias)
        self.norm = norm
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C_in, T_in), (B,) -> (B, C_out, T_out), (B,)."""
        x = self.conv(x)
        lengths = conv_length(lengths, self.conv.kernel_size[0], self.conv.stride[0])
        if self.norm is not None:
            x = self.norm(x, lengths)
        return F.gelu(x), lengths


class FeatureExtractor(nn.Module):
    """(B, S) waveforms -> (B, T, C) features."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks = nn.ModuleList()
        in_channels = 1
        for index, (width, kernel, stride) in enumerate(config.conv_layers):
            norm: nn.Module | None = None
            if config.extractor_norm == "layer":
                norm = ChannelNorm(width)
            elif index == 0:
                norm = InstanceNorm(width)
            self.blocks.append(ConvBlock(in_channels, width, kernel, stride, config.conv_bias, norm))
            in_channels = width

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S), (B,) samples -> (B, T, C), (B,) frames."""
        x = waveforms[:, None]
        for block in self.blocks:
            x, lengths = block(x, lengths)
        return x.transpose(1, 2), lengths

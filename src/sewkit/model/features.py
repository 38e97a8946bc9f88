"""Waveform feature extractor: samples -> frames at 50 Hz (wav2vec 2.0 section 2; SEW's compact WFE-C section 4.2).

The two differ in their list of convolutions only. Nothing is padded, so a valid frame sees valid samples only; the one
thing that crosses frames is the group norm over time, whose statistics are taken over each utterance's own frames.
(The original and transformers let padding into them, so that there a result depends on what shares the batch.)

Frames keep their channels together, (B, T, C), all the way: the first convolution is a product of the waveform's
windows with a matrix, one of kernel 1 is a linear layer, the others run in PyTorch's channels-last format.
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

    def forward(self, windows: Tensor, lengths: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, K) windows, (B,) of them valid, (C, K) -> windows about their mean, (B, K, C) normalising weights.

        Their product, plus `bias`, is windows @ weight.T normalised. The many channels need not be gone through for
        their statistics: an output w.x has the variance w' cov(x) w.
        """
        count = lengths.clamp(min=1)[:, None, None]
        valid = valid_mask(lengths, windows.shape[1])[:, :, None]
        mean = windows.masked_fill(~valid, 0.0).sum(1, keepdim=True) / count
        windows = windows - mean
        precise = statistics_dtype(windows.device)
        wide = windows.masked_fill(~valid, 0.0).to(precise)
        return windows, self.filters(wide.transpose(1, 2) @ wide / count, weight)

    def filters(self, covariance: Tensor, weight: Tensor) -> Tensor:
        """(B, K, K) of the windows, (C, K) -> (B, K, C) normalising weights."""
        taps = weight.to(covariance.dtype)
        variance = ((taps @ covariance) * taps).sum(2).clamp(min=0)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return (weight * scale[:, :, None]).transpose(1, 2).to(weight.dtype)


def statistics_dtype(device: torch.device) -> torch.dtype:
    """For a waveform's covariance: neighbouring samples are alike, so what a high-pass filter leaves of it is small."""
    return torch.float32 if device.type == "mps" else torch.float64


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
        """(B, T_in, C_in), (B,) -> (B, T_out, C_out), (B,)."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        lengths = conv_length(lengths, kernel, stride)
        if self.conv.in_channels == 1:
            x = self.filter_windows(x[:, :, 0].unfold(1, kernel, stride), lengths)
        else:
            x = conv_channels_last(x, self.conv.weight, self.conv.bias, stride)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x)
        return F.gelu(x), lengths

    def filter_windows(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, K) windows of a waveform, (B,) -> (B, T, C), normalised over time where the norm is of that kind."""
        weight, bias = self.conv.weight[:, 0], self.conv.bias
        if not isinstance(self.norm, InstanceNorm):
            return F.linear(windows, weight, bias)
        windows, weights = self.norm(windows, lengths, weight)
        # A bias before the norm changes nothing; its gradient is 0, not missing.
        shift = self.norm.bias if bias is None else self.norm.bias + 0 * bias
        return windows @ weights + shift


def conv_channels_last(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """`F.conv1d` of (B, T, C_in) frames with (C_out, C_in, K) weights -> (B, T_out, C_out)."""
    if weight.shape[2] == stride == 1:
        return F.linear(x, weight[:, :, 0], bias)
    # Transposed, an image one pixel high whose channels lie together: the format that convolutions are quickest in.
    image = x.transpose(1, 2)[:, :, None]
    return F.conv2d(image, weight[:, :, None], bias, (1, stride))[:, :, 0].transpose(1, 2)


class FeatureExtractor(nn.Module):
    """(B, S) waveforms -> (B, T, C) features."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.blocks = nn.ModuleList()
        in_channels = 1
        for index, (width, kernel, stride) in enumerate(config.conv_layers):
            norm: nn.Module | None = None
            if config.extractor_norm == "layer":
                norm = nn.LayerNorm(width)
            elif index == 0:
                norm = InstanceNorm(width)
            self.blocks.append(ConvBlock(in_channels, width, kernel, stride, config.conv_bias, norm))
            in_channels = width

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S), (B,) samples -> (B, T, C), (B,) frames."""
        x = waveforms[:, :, None].to(next(self.parameters()).dtype)
        for block in self.blocks:
            x, lengths = block(x, lengths)
        return x, lengths

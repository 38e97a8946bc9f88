"""The feature extractor in graphs for other runtimes, see `graph.py`: as convolutions, and for int8 as products.

S samples, T frames, C channels; shapes are those of one clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.lengths import conv_length
from sewkit.model.features import ConvBlock, InstanceNorm

TINY = 1e-6
"""What a frame of zeros is divided by."""
SCALED_FROM = 128
"""Channels from which on a convolution is done in int8: with fewer, scaling its frames takes as long as int8 saves."""


class Conv(nn.Module):
    """(1, C_in, T_in) -> (1, C_out, T_out), see `ConvBlock`."""

    def __init__(self, block: nn.Module):
        super().__init__()
        assert isinstance(block, ConvBlock)
        self.conv, self.norm = block.conv, block.norm

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = self.conv(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = _layer_normed(x.transpose(1, 2), self.norm).transpose(1, 2)
        return F.gelu(x)


class FirstConv(nn.Module):
    """The same of the waveform (1, 1, S); here models with group norm have it."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = Conv(block)

    def forward(self, x: Tensor, num_samples: Tensor) -> Tensor:
        """See the class."""
        conv, norm = self.block.conv, self.block.norm
        if not isinstance(norm, InstanceNorm):
            return self.block(x)
        x = F.conv1d(x, conv.weight, stride=conv.stride)  # a bias before the norm changes nothing
        scale, shift = _instance_norm(x, norm, num_samples, conv, 2)
        return F.gelu(x * scale + shift)


def is_narrow(block: nn.Module) -> bool:
    """Whether a block hears too few channels for int8."""
    return isinstance(block, ConvBlock) and block.conv.in_channels < SCALED_FROM


class ConvProduct(nn.Module):
    """`Conv` and `FirstConv` as a product of windows: (1, T, C_in), T a multiple of the stride -> (1, T / stride, C).

    Channels are last from the start: a transpose of the longest tensor there is, and what converts its layout for the
    norm, took a twentieth of W2V2-base's time in int8. num_samples: what group norm needs.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        assert isinstance(block, ConvBlock)
        self.conv, self.norm, self.windows = block.conv, block.norm, _Windows(block.conv)

    def forward(self, x: Tensor, num_samples: Tensor | None = None) -> Tensor:
        """See the class."""
        weight = self.conv.weight.transpose(1, 2).flatten(1)
        windows = torch.cat(self.windows(x), 2)
        if not isinstance(self.norm, InstanceNorm):
            return F.gelu(_layer_normed(F.linear(windows, weight, self.conv.bias), self.norm))
        assert num_samples is not None
        x = F.linear(windows, weight)
        scale, shift = _instance_norm(x, self.norm, num_samples, self.conv, 1)
        return F.gelu(x * scale + shift)


def _instance_norm(
    x: Tensor, norm: InstanceNorm, num_samples: Tensor, conv: nn.Module, time: int
) -> tuple[Tensor, Tensor]:
    """Factor and summand that normalise each channel of the clip over `time`, the other axis of x but the first."""
    assert isinstance(conv, nn.Conv1d)
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    count = conv_length(num_samples, kernel, stride)
    # Frames of zeros add nothing to the sums, but those do that hear the clip's end and the zeros behind it.
    partial = x.index_select(time, count + torch.arange(-(-kernel // stride)))
    mean = (x.sum(time, keepdim=True) - partial.sum(time, keepdim=True)) / count
    squares = torch.linalg.vector_norm(x, dim=time, keepdim=True).square()
    variance = (squares - partial.square().sum(time, keepdim=True)) / count - mean.square()
    weight, bias = (of if time == 1 else of[:, None] for of in (norm.weight, norm.bias))
    scale = torch.rsqrt(variance.clamp(min=0) + norm.eps) * weight
    return scale, bias - mean * scale


class _Windows(nn.Module):
    """(1, T, C), T a multiple of the stride -> what a convolution's windows hold, in parts (1, T / stride, taps * C).

    The taps of one stride are a part, which is a view of the frames where they are the first, and so is each tap that
    is left over. Windows that reach behind the last frame hear that again: no frame of a clip is in one.
    """

    def __init__(self, conv: nn.Module):
        super().__init__()
        assert isinstance(conv, nn.Conv1d)
        kernel, self.stride = conv.kernel_size[0], conv.stride[0]
        strides, single = divmod(kernel, self.stride)
        self.taps = [self.stride] * strides + [1] * single

    def forward(self, x: Tensor) -> list[Tensor]:
        rows = x.reshape(1, -1, self.stride * x.shape[2])
        number = torch.arange(rows.shape[1])
        parts, start = [], 0
        for taps in self.taps:
            frames, first, step = (x, start, self.stride) if taps < self.stride else (rows, start // self.stride, 1)
            index = (number * step + first).clamp(max=frames.shape[1] - 1)
            parts.append(frames if first == 0 and step == 1 else frames.index_select(1, index))
            start += taps
        return parts


class ScaledConv(nn.Module):
    """`Conv` as products of frames that were each divided by its largest number, so that int8 can hold them.

    Nothing between the first convolution and the last normalises, so frames are as loud and as quiet as speech is: with
    one scale for all of them the quiet ones become 0 (in sew-words a fifth of the letters change, with a scale for each
    frame three in a thousand: recipes/speed/measure_int8_extractor.py). A scale can be taken out of a product of all
    that it scales. So each part of a window is a product with a scale of its own; a window is their sum.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        assert isinstance(block, ConvBlock)
        self.windows, self.bias, self.norm = _Windows(block.conv), block.conv.bias, block.norm
        parts = block.conv.weight.detach().transpose(1, 2).split(self.windows.taps, 1)
        self.weights = nn.ParameterList(part.flatten(1).contiguous() for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, C_in), T a multiple of the stride -> (1, T / stride, C_out)."""
        sums: list[Tensor] = [] if self.bias is None else [self.bias]
        for frames, weight in zip(self.windows(x), self.weights, strict=True):
            # Not of abs(): reductions are cheaper than another tensor of this size. A row, not a column, whose numbers
            # OpenVINO would take one by one.
            loudest = torch.maximum(frames.amax(2), -frames.amin(2)) + TINY
            sums.append(F.linear(frames * loudest.reciprocal()[:, :, None], weight) * loudest[:, :, None])
        return F.gelu(_layer_normed(sum(sums[1:], sums[0]), self.norm))


def _layer_normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return x

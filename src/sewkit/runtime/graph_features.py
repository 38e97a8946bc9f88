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
        self.starts = [sum(self.taps[:part]) for part in range(len(self.taps))]

    def forward(self, x: Tensor) -> list[Tensor]:
        rows = x.reshape(1, -1, self.stride * x.shape[2])
        return [
            _shifted(rows, start // self.stride) if taps == self.stride else _shifted(x, start, self.stride)
            for start, taps in zip(self.starts, self.taps, strict=True)
        ]

    def of_rows(self, x: Tensor) -> list[Tensor]:
        """(1, T / stride) numbers of the frames of a stride -> (1, T / stride) for each part those of its frames."""
        return [_shifted(x, start // self.stride) for start in self.starts]


def _shifted(x: Tensor, start: int, step: int = 1) -> Tensor:
    """(1, T, ...) -> (1, T / step, ...), each `step`-th from `start` on, and the last again where there are no more."""
    if start == 0 and step == 1:
        return x
    number = torch.arange(x.shape[1] // step)
    return x.index_select(1, (number * step + start).clamp(max=x.shape[1] - 1))


class ScaledConv(nn.Module):
    """`Conv` as products of frames that were divided by their largest number, so that int8 can hold them.

    Nothing between the first convolution and the last normalises, so frames are as loud and as quiet as speech is: with
    one scale for all of them the quiet ones become 0 (in sew-words a fifth of the letters change, with a scale for each
    frame three in a thousand: recipes/speed/measure_int8_extractor.py). A scale can be taken out of a product of all
    that it scales. So the frames of a stride, which share one, are a product of their own; a window is a sum of such.
    """

    def __init__(self, block: nn.Module):
        super().__init__()
        assert isinstance(block, ConvBlock)
        self.windows, self.bias, self.norm = _Windows(block.conv), block.conv.bias, block.norm
        parts = block.conv.weight.detach().transpose(1, 2).split(self.windows.taps, 1)
        self.weights = nn.ParameterList(part.flatten(1).contiguous() for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(1, T, C_in), T a multiple of the stride -> (1, T / stride, C_out)."""
        rows = x.reshape(1, -1, self.windows.stride * x.shape[2])
        # Not of abs(): reductions are cheaper than another tensor of this size. A row, not a column, whose numbers
        # OpenVINO would take one by one.
        loudest = torch.maximum(rows.amax(2), -rows.amin(2)) + TINY
        scaled = (rows * loudest.reciprocal()[:, :, None]).reshape(x.shape)
        sums: list[Tensor] = [] if self.bias is None else [self.bias]
        parts = zip(self.windows(scaled), self.windows.of_rows(loudest), self.weights, strict=True)
        sums += [F.linear(frames, weight) * scale[:, :, None] for frames, scale, weight in parts]
        return F.gelu(_layer_normed(sum(sums[1:], sums[0]), self.norm))


def _layer_normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    if isinstance(norm, nn.LayerNorm):
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return x

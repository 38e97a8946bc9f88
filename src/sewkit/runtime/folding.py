"""A model made ready for inference: `prepare` gives one that computes the same in less time and memory.

The modules of `sewkit.model` are the definition. Here are the forms that only inference can have, each tested against
its own: what depends on weights alone is computed once, and what is large is computed in pieces.

    FeatureExtractor       -> TiledExtractor          stretches of frames, one after the other, each row by itself
    linear layers          -> Product                 weights in the order that the processor reads them, GELU within
    PositionalConv         -> WindowConv, SpectralConv  weight norm folded; a matrix product, or in the frequency domain
    SelfAttention          -> FusedAttention          key and value by one matrix
    DisentangledAttention  -> BlockwiseAttention, KernelAttention  its position table projected; scores piece by piece
    RelativePositions      -> PositionBlocks, PositionRows         which of that table's rows each pair needs

B batch, S samples, T frames, U squeezed frames, H hidden, G groups of C channels, K taps.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.lengths import hop_samples, num_frames, pooled_length
from sewkit.model import SpeechModel
from sewkit.model.attention import SelfAttention
from sewkit.model.disentangled import DisentangledAttention, RelativePositions
from sewkit.model.encoder import Encoder, EncoderLayer
from sewkit.model.features import ConvBlock, FeatureExtractor, InstanceNorm, statistics_dtype
from sewkit.model.squeeze import PositionalConv
from sewkit.model.stochastic import ways_up
from sewkit.runtime.attention import FusedAttention
from sewkit.runtime.disentangled import (
    BlockwiseAttention,
    KernelAttention,
    PositionBlocks,
    PositionRows,
    kernel_works,
)
from sewkit.runtime.product import Product, product

TILE_FRAMES = 256
"""Frames that the extractor makes at a time, at most: enough to keep a core busy."""
TILE_MULTIPLE = 8
"""A clip's last tile reaches back, over frames that are there already, to a multiple of this: oneDNN makes code for
each number of rows that is new to it, which for all layers takes 4 to 7 ms."""
TILE_NUMBERS = 1 << 21
"""Numbers that the first convolution may give a tile: few enough to stay in the caches."""
STATISTICS_WINDOWS = 1 << 14
"""Windows of the waveform that its statistics are taken of at a time."""
STRETCH_WINDOWS = 256
"""Windows of frames that the positional convolution multiplies at a time."""
WINDOW_TAPS = 64
"""Positional convolutions of more taps than this are quicker in the frequency domain."""


@torch.no_grad()
def prepare(model: SpeechModel) -> SpeechModel:
    """What computes the same as `model` without gradients, faster. It shares the weights that it does not change.

    It is made for the weights, the device and the number format that `model` has now. On other devices than a CPU the
    extractor stays as it is: there a whole batch at once is quicker.
    """
    ready = copy.deepcopy(model, {id(weight): weight for weight in (*model.parameters(), *model.buffers())})
    if model.mask_embedding.device.type == "cpu":
        ready.add_module("features", TiledExtractor(model.features))
    position = model.squeeze.position
    form = SpectralConv if position.weight_v.shape[2] > WINDOW_TAPS else WindowConv
    ready.squeeze.add_module("position", form(position))
    if isinstance(ready.projection, nn.Linear):
        ready.add_module("projection", product(ready.projection))
    for way in ways_up(ready).values():
        way.add_module("linear", product(way.linear, gelu=True))
        way.add_module("activation", nn.Identity())
    ready.encoder.keep_states = getattr(model.head, "layer_weights", None) is not None
    for layer in ready.encoder.layers:
        assert isinstance(layer, EncoderLayer)
        feed_forward = layer.feed_forward
        layer.add_module("feed_forward", nn.Sequential(product(feed_forward.up, gelu=True), product(feed_forward.down)))
    _prepare_attention(ready.encoder)
    return ready.eval()


def _prepare_attention(encoder: Encoder) -> None:
    tables = encoder.positions
    if not isinstance(tables, RelativePositions):
        for layer in encoder.layers:
            assert isinstance(layer.attention, SelfAttention)
            layer.attention = FusedAttention(layer.attention)
        return
    works = kernel_works(tables.embedding.device, tables.embedding.dtype)
    attention, positions = (KernelAttention, PositionRows) if works else (BlockwiseAttention, PositionBlocks)
    for layer in encoder.layers:
        assert isinstance(layer.attention, DisentangledAttention)
        layer.attention = attention(layer.attention, tables)
    encoder.positions = positions(tables)


def gelu_(x: Tensor) -> Tensor:
    """GELU in place."""
    return torch.ops.aten.gelu_(x)


class TiledExtractor(nn.Module):
    """`FeatureExtractor` in stretches of frames, which need no more than a few samples of their neighbours'.

    Rows are gone through one by one, valid frames only; the others come out as 0. Samples stay in float32 up to the
    first convolution, whatever the format of the weights.
    """

    def __init__(self, extractor: FeatureExtractor):
        super().__init__()
        blocks = [block for block in extractor.blocks if isinstance(block, ConvBlock)]
        self.layers = [(block.conv.out_channels, block.conv.kernel_size[0], block.conv.stride[0]) for block in blocks]
        self.first = blocks[0]
        self.rest = nn.ModuleList(WindowProduct(block) for block in blocks[1:])

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `FeatureExtractor.forward`."""
        frames = num_frames(lengths, self.layers)
        shape = (len(waveforms), num_frames(waveforms.shape[1], self.layers), self.layers[-1][0])
        features = self.first.conv.weight.new_zeros(shape)
        for row, waveform, size, count in zip(features, waveforms, lengths.tolist(), frames.tolist(), strict=True):
            if count:
                self._fill(row[:count], waveform[:size])
        return features, frames

    def _fill(self, frames: Tensor, waveform: Tensor) -> None:
        """(S,) samples -> all of (T, C), in place."""
        width, kernel, stride = self.layers[0]
        windows = waveform.unfold(0, kernel, stride)
        mean, weights, shift = _first_filters(self.first, windows)
        tile = min(TILE_FRAMES, max(1, TILE_NUMBERS // (width * hop_samples(self.layers[1:]))))
        for start in range(0, len(frames), tile):
            stop = min(start + tile, len(frames))
            start -= min(start, -(stop - start) % TILE_MULTIPLE)
            low, high = self._seen(start, stop)
            x = torch.addmm(shift, windows[low:high] - mean, weights)
            x = gelu_(_layer_normed(x, self.first.norm)).to(frames.dtype)
            for block in self.rest:
                x = block(x)
            frames[start:stop] = x

    def _seen(self, start: int, stop: int) -> tuple[int, int]:
        """The outputs of the first block, from and to, that frames from `start` to `stop` are made of."""
        for _, kernel, stride in reversed(self.layers[1:]):
            start, stop = start * stride, (stop - 1) * stride + kernel
        return start, stop


def _first_filters(block: ConvBlock, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(T, K) windows -> (K,) mean, (K, C) weights and (C,) shift: (windows - mean) @ weights + shift is normed over
    time, where the norm is of that kind."""
    weight, bias, nothing = block.conv.weight[:, 0].float(), block.conv.bias, windows.new_zeros(windows.shape[1])
    if not isinstance(block.norm, InstanceNorm):
        return nothing, weight.t(), weight.new_zeros(len(weight)) if bias is None else bias.float()
    mean, precise = windows.mean(0), statistics_dtype(windows.device)
    covariance = torch.zeros(len(mean), len(mean), dtype=precise)
    for stretch in windows.split(STATISTICS_WINDOWS):  # copies: of a minute they would be larger than all else
        wide = (stretch - mean).to(precise)
        covariance += wide.t() @ wide / len(windows)
    return mean, block.norm.filters(covariance[None], weight)[0], block.norm.bias.float()


def _layer_normed(x: Tensor, norm: nn.Module | None) -> Tensor:
    """Normalised where there is a LayerNorm."""
    if not isinstance(norm, nn.LayerNorm):
        return x
    weight, bias = (parameter.to(x.dtype) for parameter in (norm.weight, norm.bias))
    return F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)


class WindowProduct(nn.Module):
    """`ConvBlock`: the frames of a window lie together, so all windows are the rows of one product."""

    def __init__(self, block: ConvBlock):
        super().__init__()
        weight = block.conv.weight
        self.stride, self.taps = block.conv.stride[0], weight.shape[2]
        self.norm = block.norm if isinstance(block.norm, nn.LayerNorm) else None
        self.product = Product(weight.transpose(1, 2).flatten(1), block.conv.bias, gelu=self.norm is None)

    def forward(self, x: Tensor) -> Tensor:
        """(T_in, C_in) -> (T_out, C_out)."""
        channels = x.shape[1]
        windows = x.flatten().unfold(0, self.taps * channels, self.stride * channels)
        y = self.product(windows)
        return y if self.norm is None else gelu_(_layer_normed(y, self.norm))


class WindowConv(nn.Module):
    """`PositionalConv` of few taps: for each group, all windows of its frames by one matrix."""

    def __init__(self, position: PositionalConv):
        super().__init__()
        self.groups, self.bias = position.groups, position.bias
        weight = position.weight()
        self.taps = weight.shape[2]
        grouped = weight.unflatten(0, (self.groups, -1))
        self.matrices = nn.Parameter(grouped.permute(0, 3, 2, 1).flatten(1, 2).contiguous())  # (G, K * C, C)

    def forward(self, x: Tensor, stride: int) -> Tensor:
        """See `PositionalConv.forward`."""
        frames, hidden = x.shape[1:]
        size, half = hidden // self.groups, self.taps // 2
        grouped = F.pad(x, (0, 0, half, half)).unflatten(2, (self.groups, size)).transpose(1, 2).flatten(2)
        windows = grouped.unfold(2, self.taps * size, stride * size)  # (B, G, U, K * C)
        # Products copy windows, which share frames, so few at a time.
        stretches = windows[:, :, : pooled_length(frames, stride)].split(STRETCH_WINDOWS, 2)
        y = torch.cat([stretch @ self.matrices for stretch in stretches], 2)
        return gelu_(y.transpose(1, 2).flatten(2) + self.bias)


class SpectralConv(nn.Module):
    """`PositionalConv` of many taps: stretches of frames by way of their spectra (overlap-save), in float32."""

    def __init__(self, position: PositionalConv):
        super().__init__()
        self.groups, self.bias = position.groups, position.bias
        weight = position.weight().float()
        self.taps = weight.shape[2]
        self.size = 2 ** math.ceil(math.log2(2 * self.taps))
        # What comes out at a frame is a sum over the frames after it: a product with the conjugate of the spectrum.
        spectrum = torch.fft.rfft(weight, self.size).conj().unflatten(0, (self.groups, -1))
        self.register_buffer("spectrum", spectrum.permute(3, 0, 2, 1).resolve_conj().contiguous())  # (F, G, C, C)

    def forward(self, x: Tensor, stride: int) -> Tensor:
        """See `PositionalConv.forward`."""
        batch, frames = x.shape[:2]
        half, hop = self.taps // 2, (self.size - self.taps + 1) // stride * stride
        pieces = pooled_length(frames, hop)
        padded = F.pad(x.float(), (0, 0, half, pieces * hop + self.taps - 1 - half - frames))
        spectra = torch.fft.rfft(padded.unfold(1, hop + self.taps - 1, hop), self.size)  # (B, pieces, H, F)
        grouped = spectra.flatten(0, 1).unflatten(1, (self.groups, -1)).permute(3, 1, 0, 2)  # (F, G, B * pieces, C)
        filtered = (grouped @ self.spectrum).permute(2, 1, 3, 0).flatten(1, 2)
        y = torch.fft.irfft(filtered, self.size)[:, :, :hop:stride]  # (B * pieces, H, hop / stride)
        y = y.unflatten(0, (batch, pieces)).permute(0, 1, 3, 2).flatten(1, 2)
        return gelu_(y[:, : pooled_length(frames, stride)].to(x.dtype) + self.bias)

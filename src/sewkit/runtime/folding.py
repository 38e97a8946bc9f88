"""A model made ready for inference: `prepare` gives one that computes the same in less time and memory.

The modules of `sewkit.model` are the definition. Here are the forms that only inference can have, each tested against
its own: what depends on weights alone is computed once, and what is large is computed in pieces.

    FeatureExtractor       -> TiledExtractor          stretches of frames, one after the other, each row by itself
    linear layers          -> Product                 weights in the order that the processor reads them, GELU within
    PositionalConv         -> WindowConv, SpectralConv  weight norm folded; a matrix product, or in the frequency domain
    SelfAttention          -> FusedAttention          key and value by one matrix
    DisentangledAttention  -> BlockwiseAttention      its position table projected; scores for a block of queries a time
    RelativePositions      -> PositionBlocks          which of that table's rows each block needs

B batch, S samples, T frames, U squeezed frames, Uq queries, Uk keys, H hidden, G groups of C channels, N heads,
D channels of a head, R rows of the position table, K taps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.lengths import hop_samples, num_frames, pooled_length
from sewkit.model import SpeechModel
from sewkit.model.attention import Positions, SelfAttention
from sewkit.model.disentangled import DisentangledAttention, RelativePositions, log_buckets, round_distances
from sewkit.model.encoder import EncoderLayer
from sewkit.model.features import ConvBlock, FeatureExtractor, InstanceNorm, statistics_dtype
from sewkit.model.pooling import NO_POOLING, Pooling
from sewkit.model.squeeze import PositionalConv
from sewkit.model.stochastic import ways_up
from sewkit.runtime.product import Product, product

TILE_FRAMES = 256
"""Frames that the extractor makes at a time, at most: enough to keep a core busy."""
TILE_NUMBERS = 1 << 21
"""Numbers that the first convolution may give a tile: few enough to stay in the caches."""
STATISTICS_WINDOWS = 1 << 14
"""Windows of the waveform that its statistics are taken of at a time."""
SCORES = 1 << 19
"""Scores of a head that are held at a time: few enough to stay in the caches."""
QUERIES = (64, 384)
"""Queries whose scores are held at a time, at least and at most: of few the products are slow; of many, more keys have
distances with rows of their own, which are found by an index."""
TABLE_PRODUCTS = 1 << 20
"""Products of the position table with keys that are held at a time."""
LEAST_HEADS = 2
"""Heads of all rows of a batch that are gone through together, at least: one alone would not keep two cores busy."""
MOST_DISTANCES = 2
"""Times as many distances as rows of the position table, at most, to multiply with a row for each distance."""
ROWS_MULTIPLE = 16
"""Such rows are filled up to a multiple of this: products of odd widths are slower."""
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
    tables = model.encoder.positions
    for layer in ready.encoder.layers:
        assert isinstance(layer, EncoderLayer)
        feed_forward = layer.feed_forward
        layer.add_module("feed_forward", nn.Sequential(product(feed_forward.up, gelu=True), product(feed_forward.down)))
        layer.attention = _ready_attention(layer.attention, tables)
    if isinstance(tables, RelativePositions):
        ready.encoder.positions = PositionBlocks(tables)
    return ready.eval()


def _ready_attention(attention: nn.Module, tables: Callable[..., Positions] | None) -> nn.Module:
    if isinstance(attention, DisentangledAttention):
        assert isinstance(tables, RelativePositions)
        return BlockwiseAttention(attention, tables)
    assert isinstance(attention, SelfAttention)
    return FusedAttention(attention)


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
        y = windows[:, :, : pooled_length(frames, stride)] @ self.matrices
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


class FusedAttention(nn.Module):
    """`SelfAttention` whose key and value come of one matrix."""

    def __init__(self, attention: SelfAttention):
        super().__init__()
        pair = (attention.key, attention.value)
        self.query, self.output = product(attention.query), product(attention.output)
        self.key_value = Product(torch.cat([one.weight for one in pair]), torch.cat([one.bias for one in pair]))
        self.num_heads = attention.num_heads

    def forward(
        self, x: Tensor, key_mask: Tensor | None, positions: Blocks | None = None, pooling: Pooling = NO_POOLING
    ) -> Tensor:
        """See `SelfAttention.forward`; `positions` from `PositionBlocks`."""
        queries, keys = pooling.pool(x)
        parts = (self.query(queries), *self.key_value(keys).chunk(2, 2))
        query, key, value = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        context = self.attend(query, key, value, key_mask, positions)
        return pooling.spread(self.output(context.transpose(1, 2).flatten(2)))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, positions: Blocks | None
    ) -> Tensor:
        """See `SelfAttention.attend`."""
        if key_mask is not None and key_mask.dtype != torch.bool:
            key_mask = key_mask.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)


class Block(NamedTuple):
    """Queries from `start` to `stop`, and the keys from `low` to `high` whose distances have rows of their own.

    Keys are counted from the last: all before have the table's first row, all after its last. rows: (stop - start,
    high - low) int64.
    """

    start: int
    stop: int
    low: int
    high: int
    rows: Tensor

    def scores(self, by_query: Tensor, by_key: Tensor) -> Tensor:
        """Products with the table of these queries (B, N, n, R) and of all keys (B, N, R, Uk) -> (B, N, n, Uk)."""
        rows = self.rows.to(by_query.device).expand(*by_query.shape[:2], -1, -1)
        near = by_query.gather(3, rows)
        near += by_key[..., self.low : self.high].gather(2, rows)
        if near.shape[3] == by_key.shape[3]:
            return near
        later = by_query[..., :1] + by_key[..., :1, : self.low]
        earlier = by_query[..., -1:] + by_key[..., -1:, self.high :]
        return torch.cat([later, near, earlier], 3)


class ShortBlock(NamedTuple):
    """Queries from `start` to `stop` of a clip with a row for each distance.

    steps: how many distances further the next query and the next key are, which is counted from the last.
    """

    start: int
    stop: int
    steps: tuple[int, int]

    def scores(self, by_query: Tensor, by_key: Tensor) -> Tensor:
        """See `Block.scores`. The products of a pair are found without an index: they are steps apart in memory."""
        num_distances, num_keys = by_key.shape[2:]
        first, (query_step, key_step) = self.start * self.steps[0], self.steps
        shape = (*by_query.shape[:3], num_keys)
        of_query = (*by_query.stride()[:2], num_distances + query_step, key_step)
        of_key = (*by_key.stride()[:2], query_step * num_keys, key_step * num_keys + 1)
        return by_query.as_strided(shape, of_query, first) + by_key.as_strided(shape, of_key, first * num_keys)


class Blocks(NamedTuple):
    """The rows of the position table that a clip needs, (R,) int64, and its queries in blocks."""

    rows: Tensor
    blocks: Sequence[Block | ShortBlock]


class PositionBlocks(nn.Module):
    """`RelativePositions` for `BlockwiseAttention`: rows only, the layers have them projected.

    What row a pair has depends on how far its query stands behind its key alone: with keys counted from the last, on
    q * i + k * j for pools of q and k. So the rows of all pairs are a view of one vector, whose ends, far away, are all
    alike.
    """

    def __init__(self, positions: RelativePositions):
        super().__init__()
        self.num_buckets, self.max_positions, self.unit = (
            positions.num_buckets,
            positions.max_positions,
            positions.unit,
        )

    def forward(self, num_frames: int, query_pool: int = 1, kv_pool: int = 1, squeeze: int = 1) -> Blocks:
        """For U = `num_frames` frames."""
        queries, keys = pooled_length(num_frames, query_pool), pooled_length(num_frames, kv_pool)
        furthest_behind, furthest_before = query_pool * (queries - 1), kv_pool * (keys - 1)
        offsets = torch.arange(-furthest_before, furthest_behind + 1)
        step = (1, 1) if self.unit is None else (squeeze, self.unit)
        distances = round_distances(2 * offsets + query_pool - kv_pool, step)
        rows = log_buckets(distances, self.num_buckets, self.max_positions) + self.num_buckets
        rows = rows.clamp(0, 2 * self.num_buckets - 1)
        steps, stretches = (query_pool, kv_pool), even_stretches(queries, SCORES // keys)
        used = torch.arange(int(rows[0]), int(rows[-1]) + 1)
        if len(rows) <= MOST_DISTANCES * len(used):
            widened = F.pad(rows, (0, -len(rows) % ROWS_MULTIPLE), value=int(rows[-1]))
            return Blocks(widened, [ShortBlock(start, stop, steps) for start, stop in stretches])
        rows -= int(used[0])
        num_first, num_others = int((rows == 0).sum()), int((rows != rows[-1]).sum())
        blocks = []
        for start, stop in stretches:
            low = min(pooled_length(max(num_first - query_pool * (stop - 1), 0), kv_pool), keys)
            high = max(min(pooled_length(max(num_others - query_pool * start, 0), kv_pool), keys), low)
            near = (stop - start, high - low), steps, query_pool * start + kv_pool * low
            blocks.append(Block(start, stop, low, high, rows.as_strided(*near)))
        return Blocks(used, blocks)


def even_stretches(queries: int, wanted: int) -> list[tuple[int, int]]:
    """Queries from and to, in stretches of about as many as `wanted`, within QUERIES."""
    size = min(max(wanted, QUERIES[0]), QUERIES[1])
    size = math.ceil(queries / math.ceil(queries / size))
    return [(start, min(start + size, queries)) for start in range(0, queries, size)]


class BlockwiseAttention(FusedAttention):
    """`DisentangledAttention` with its position table projected; scores of a block of queries and a few heads a time.

    Memory grows with the length, not with its square, and so does the time that relative position takes, once a clip is
    longer than the table reaches.
    """

    def __init__(self, attention: DisentangledAttention, positions: RelativePositions):
        super().__init__(attention)
        table = positions.norm(positions.embedding)[None]
        table_keys, table_queries = (
            attention.split_heads(projection(table))[0] for projection in (attention.key, attention.query)
        )
        self.scale = 1 / math.sqrt(3 * table_keys.shape[2])
        self.table_keys = nn.Parameter((table_keys * self.scale).contiguous())  # (N, R, D)
        self.table_queries = nn.Parameter((table_queries * self.scale).contiguous())  # (N, R, D)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, positions: Blocks | None
    ) -> Tensor:
        """See `DisentangledAttention.attend`."""
        assert positions is not None, "the encoder hands its positions to every layer"
        key, value = key.flip(2), value.flip(2)
        key_mask = None if key_mask is None else key_mask.flip(3)
        size = self.heads_at_a_time(key, positions)
        contexts = [
            self.attend_heads(slice(first, first + size), query, key, value, key_mask, positions)
            for first in range(0, self.num_heads, size)
        ]
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts, 1)

    def heads_at_a_time(self, key: Tensor, positions: Blocks) -> int:
        """Few on a CPU, so that what is held stays in its caches; elsewhere all."""
        if key.device.type != "cpu":
            return self.num_heads
        of_head = len(positions.rows) * key.shape[2]
        return max(1, max(LEAST_HEADS, TABLE_PRODUCTS // of_head) // len(key))

    def attend_heads(
        self, heads: slice, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, positions: Blocks
    ) -> Tensor:
        """Of some heads; keys from the last to the first."""
        query, key, value = query[:, heads], key[:, heads], value[:, heads]
        rows = positions.rows.to(key.device)
        table_keys = self.table_keys[heads, rows].transpose(1, 2)
        by_key = self.table_queries[heads, rows] @ key.transpose(2, 3)  # (B, N, R, Uk)
        contexts = []
        for block in positions.blocks:
            queries = query[:, :, block.start : block.stop]
            scores = block.scores(queries @ table_keys, by_key)
            if key_mask is not None and key_mask.dtype == torch.bool:
                scores.masked_fill_(~key_mask, -math.inf)
            elif key_mask is not None:
                scores += key_mask.to(scores.dtype)
            contexts.append(F.scaled_dot_product_attention(queries, key, value, attn_mask=scores, scale=self.scale))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts, 2)

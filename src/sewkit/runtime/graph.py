"""The model as a graph for other runtimes: one clip at one operating point.

What shares a call with a clip cannot change its result, for nothing does. What does not depend on the sound is computed
once and becomes a constant: weight normalisation, the scale of attention, and of SEW-D each layer's projected position
table. The modules of the model own the weights, their own forward is the definition; tests hold the two together.

Behind the clip there are zeros, `ZEROS` at least: runtimes that make code for each length that they meet then meet few.
Every count of what is valid follows from the number of samples, an input.

All arithmetic on sizes is written so that it can be traced with an open number of samples (no unflatten, no floor
division of negative numbers: converters make constants of them, or round them differently). S samples, T frames,
U squeezed frames, Uq queries, Uk keys, H hidden, N heads, D channels of a head, R rows of the position table. Counts
are int64 tensors (1,).
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.compute import Compute
from sewkit.lengths import hop_samples, num_frames, squeezed_length
from sewkit.model import SpeechModel
from sewkit.model.attention import SelfAttention
from sewkit.model.disentangled import RelativePositions, log_buckets
from sewkit.model.encoder import EncoderLayer
from sewkit.model.heads import ClassificationHead, CTCHead
from sewkit.model.stochastic import ways_up
from sewkit.runtime.graph_features import Conv, ConvProduct, FirstConv, ScaledConv, is_narrow

Index = tuple[Tensor, Tensor, int]
"""Of each pair, in rows: its entry among (Uq, R) products of queries with the position table, and among (Uk, R) of
keys; and R, the rows of the table that the clip can reach."""
ZEROS = 160
"""More than any first convolution hears at a time."""
ROWS_MULTIPLE = 16
"""A clip is multiplied with so many rows of the position table, or a multiple: products of odd widths are slower."""
NEVER = -1e4
"""What is added to the score of a key that holds no frame."""
FRAMES, LOGITS, CLASS_SCORES = "frames", "logits", "class_scores"
"""Outputs by name: the encoder's frames (1, T, H), and of a model with a head (1, T, V) or (1, labels)."""


class ClipGraph(nn.Module):
    """(1, S) samples, (1,) int64 how many of them are the clip -> the outputs named by `output_names`.

    Samples are normalised where the model wants them so, and behind the clip there are at least `ZEROS` zeros; the clip
    must give a squeezed frame. Frames behind its last are of no meaning.

    for_int8: write what int8 needs and what is quicker in it. The extractor as products with channels last, the wide
    ones as `ScaledConv`, and the waveform filled up to whole hops, so that every convolution's strides divide what it
    hears and windows are views where they can be. Of SEW-D the whole position table: a constant, which a part that
    depends on the clip is not.
    """

    def __init__(self, model: SpeechModel, compute: Compute, for_int8: bool = False):
        super().__init__()
        self.conv_layers = model.config.conv_layers
        first, *rest = model.features.blocks
        self.hop = hop_samples(self.conv_layers) if for_int8 else None
        self.first = ConvProduct(first) if for_int8 else FirstConv(first)
        num_narrow = sum(map(is_narrow, rest)) if for_int8 else 0
        self.narrow = nn.Sequential(*map(ConvProduct, rest[:num_narrow]))
        self.rest = nn.Sequential(*map(ScaledConv if for_int8 else Conv, rest[num_narrow:]))
        self.feature_norm, self.projection = model.feature_norm, model.projection
        self.squeeze = _Squeeze(model, compute.squeeze)
        self.encoder_norm, self.norm_first = model.encoder.norm, model.encoder.norm_first
        pools = compute.pools(model.config.num_layers)
        tables = model.encoder.positions
        assert tables is None or isinstance(tables, RelativePositions)
        self.layers = nn.ModuleList(
            _Layer(layer, *pair, tables) for layer, pair in zip(model.encoder.layers, pools, strict=True)
        )
        self.indices = nn.ModuleDict()
        if tables is not None:
            self.indices.update({_key(pair): _Index(tables, *pair, compute.squeeze, for_int8) for pair in set(pools)})
        self.upsample = ways_up(model).get(compute.squeeze)
        self.head = model.head

    def forward(self, waveform: Tensor, num_samples: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        if self.hop is None:
            x = self.rest(self.first(waveform[:, None], num_samples)).transpose(1, 2)
        else:
            whole = F.pad(waveform, (0, self.hop - waveform.shape[1] % self.hop))
            x = self.rest(self.narrow(self.first(whole[:, :, None], num_samples)))
        features = self.projection(self.feature_norm(x))
        count = num_frames(num_samples, self.conv_layers)
        squeezed = squeezed_length(count, self.squeeze.factor)
        states = self._encode(self.squeeze(features * _valid(features, count)), squeezed)
        frames = states[-1] if self.upsample is None else self._upsample(states[-1], squeezed)
        return (frames, *self._head(frames, count, states, squeezed))

    def _encode(self, x: Tensor, count: Tensor) -> list[Tensor]:
        """(1, U, H), (1,) -> what `Encoder.forward` gives."""
        if self.encoder_norm is not None and not self.norm_first:
            x = self.encoder_norm(x)
        indices = {key: index(x) for key, index in self.indices.items()}
        states = [x]
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            states.append(layer(states[-1], count, indices.get(layer.key)))
        if self.encoder_norm is not None and self.norm_first:
            states[-1] = self.encoder_norm(states[-1])
        return states

    def _upsample(self, x: Tensor, count: Tensor) -> Tensor:
        """(1, U, H), (1,) -> (1, T, H), with the zero tail."""
        assert self.upsample is not None
        x = F.gelu(self.upsample.linear(x)).reshape(1, -1, self.upsample.linear.in_features)
        return F.pad(x * _valid(x, count * self.upsample.factor), (0, 0, 0, self.upsample.factor - 1))

    def _head(self, frames: Tensor, count: Tensor, states: list[Tensor], squeezed: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.head, CTCHead):
            return (self.head(frames),)
        if isinstance(self.head, ClassificationHead):
            if self.head.layer_weights is not None:
                frames, count = self.head.mix(states), squeezed
            x = self.head.projector(frames)
            return (self.head.classifier((x * _valid(x, count)).sum(1) / count),)
        return ()


def graph_inputs(clip: np.ndarray, size: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(S,) samples -> what `ClipGraph` takes, zeros behind the clip up to `size` samples."""
    samples = np.zeros((1, max(size, len(clip) + ZEROS)), np.float32)
    samples[0, : len(clip)] = clip
    return samples, np.array([len(clip)])


def output_names(model: SpeechModel) -> tuple[str, ...]:
    """What `ClipGraph` gives, in order."""
    if isinstance(model.head, CTCHead):
        return FRAMES, LOGITS
    return (FRAMES, CLASS_SCORES) if isinstance(model.head, ClassificationHead) else (FRAMES,)


@torch.inference_mode()
def unheard_outputs(model: SpeechModel) -> list[list[float]]:
    """What the head gives for clips that `ClipGraph` cannot hear: of no frame, and of too few for a squeezed one."""
    nothing = torch.zeros(1, 1, model.config.hidden_size)
    if isinstance(model.head, CTCHead):
        return [model.head(nothing)[0, 0].tolist()] * 2
    if isinstance(model.head, ClassificationHead):
        # Mixed layers are at the squeezed rate, where such a clip has no frame either.
        counts = (0, 1) if model.head.layer_weights is None else (0, 0)
        return [model.head(nothing, torch.tensor([count]))[0].tolist() for count in counts]
    return []


class _Squeeze(nn.Module):
    """(1, T, H) -> (1, U, H), see `sewkit.model.squeeze`."""

    def __init__(self, model: SpeechModel, factor: int):
        super().__init__()
        position = model.squeeze.position
        gain = position.weight_g / torch.linalg.vector_norm(position.weight_v, dim=(0, 1), keepdim=True)
        self.weight = nn.Parameter((position.weight_v * gain).detach())
        self.bias, self.groups, self.factor = position.bias, position.groups, factor

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        kernel = self.weight.shape[2]
        y = F.gelu(F.conv1d(x, self.weight, self.bias, self.factor, kernel // 2, groups=self.groups))
        pooled = F.avg_pool1d(x, self.factor) if self.factor > 1 else x
        return (pooled + y[:, :, : pooled.shape[2]]).transpose(1, 2)


class _Layer(nn.Module):
    """(1, U, H) -> (1, U, H), see `EncoderLayer`."""

    def __init__(self, layer: nn.Module, query_pool: int, kv_pool: int, tables: RelativePositions | None):
        super().__init__()
        assert isinstance(layer, EncoderLayer)
        self.key = _key((query_pool, kv_pool))
        assert isinstance(layer.attention, SelfAttention)
        self.attention = _Attention(layer.attention, query_pool, kv_pool, tables)
        self.attention_norm, self.feed_forward_norm = layer.attention_norm, layer.feed_forward_norm
        self.feed_forward, self.norm_first = layer.feed_forward, layer.norm_first

    def forward(self, x: Tensor, count: Tensor, index: Index | None) -> Tensor:
        if self.norm_first:
            x = x + self.attention(self.attention_norm(x), count, index)
            return x + self.feed_forward(self.feed_forward_norm(x))
        x = self.attention_norm(x + self.attention(x, count, index))
        return self.feed_forward_norm(x + self.feed_forward(x))


class _Attention(nn.Module):
    """Both kinds of attention, with pooling; the scale is in the query's weights. A SEW-D layer has its two projected
    tables (N, D, R) as constants.

    Key and value have a product each: of one for both int8 is 3 % faster, but changes half as many letters again.
    """

    def __init__(self, attention: SelfAttention, query_pool: int, kv_pool: int, tables: RelativePositions | None):
        super().__init__()
        self.key, self.value, self.output = attention.key, attention.value, attention.output
        self.num_heads = attention.num_heads
        self.head_size = attention.query.out_features // self.num_heads
        self.query_pool, self.kv_pool = query_pool, kv_pool
        scale = 1 / math.sqrt(self.head_size if tables is None else 3 * self.head_size)
        self.query = _times(attention.query, scale)
        self.table_keys = self.table_queries = None
        if tables is not None:
            table = tables.norm(_in_order_of_distance(tables.embedding))[None]
            self.table_keys, self.table_queries = (
                nn.Parameter(self._heads(project(table))[0].transpose(1, 2).detach().contiguous())
                for project in (attention.key, self.query)
            )

    def forward(self, x: Tensor, count: Tensor, index: Index | None) -> Tensor:
        keys = _pooled(x, count, self.kv_pool)
        queries = keys if self.query_pool == self.kv_pool else _pooled(x, count, self.query_pool)
        query = self._heads(self.query(queries))
        key, value = self._heads(self.key(keys)), self._heads(self.value(keys))
        scores = query @ key.transpose(2, 3)
        if index is not None:
            scores = scores + self._position_scores(query, key, index)
        held = _counts(x, count, self.kv_pool)
        scores = scores + (held.clamp(min=1) / self.kv_pool).log() + NEVER * (1 - held.clamp(max=1))
        context = scores.softmax(3) @ value
        return self._spread(self.output(context.transpose(1, 2).flatten(2)), x)

    def _position_scores(self, query: Tensor, key: Tensor, index: Index) -> Tensor:
        """(1, N, Uq, D), (1, N, Uk, D) -> (1, N, Uq, Uk)."""
        by_query, by_key, num_rows = index
        assert self.table_keys is not None
        assert self.table_queries is not None
        content_to_position = _taken(query @ self.table_keys[:, :, :num_rows], by_query, query.shape[2])
        return content_to_position + _taken(key @ self.table_queries[:, :, :num_rows], by_key, query.shape[2])

    def _heads(self, x: Tensor) -> Tensor:
        """(1, U, H) -> (1, N, U, D)."""
        return x.reshape(1, -1, self.num_heads, self.head_size).transpose(1, 2)

    def _spread(self, x: Tensor, like: Tensor) -> Tensor:
        """(1, Uq, H) -> (1, U, H), every frame as its window."""
        if self.query_pool == 1:
            return x
        return x[:, :, None].expand(-1, -1, self.query_pool, -1).flatten(1, 2)[:, : like.shape[1]]


def _times(linear: nn.Linear, factor: float) -> nn.Linear:
    """A layer whose output is `factor` times as large."""
    scaled = copy.deepcopy(linear)
    for parameter in scaled.parameters():
        parameter.data *= factor
    return scaled


class _Index(nn.Module):
    """Where each pair's entry lies among the products of all queries, and of all keys, with the position table.

    The table's rows stand in the order of buckets 0, -1, 1, -2, 2, ...: a clip needs the first so many of them. whole:
    it takes all of them.
    """

    rows: Tensor
    all_rows: Tensor

    def __init__(self, tables: RelativePositions, query_pool: int, kv_pool: int, squeeze: int, whole: bool):
        super().__init__()
        self.query_pool, self.kv_pool, self.whole = query_pool, kv_pool, whole
        self.step = (1, 1) if tables.unit is None else (squeeze, tables.unit)
        self.reach = tables.max_positions  # every distance beyond has the bucket of this one
        distances = torch.arange(-self.reach, self.reach + 1)
        buckets = log_buckets(distances, tables.num_buckets, tables.max_positions)
        buckets = buckets.clamp(-tables.num_buckets, tables.num_buckets - 1)
        self.num_rows = 2 * tables.num_buckets
        self.register_buffer("all_rows", torch.arange(self.num_rows))
        self.register_buffer("rows", (2 * buckets.abs() - (buckets < 0).long()).int())

    def forward(self, x: Tensor) -> Index:
        """For (1, U, H)."""
        pools, (times, over) = (self.query_pool, self.kv_pool), self.step
        queries, keys = (torch.arange(_num_windows(x, pool), dtype=torch.int32) for pool in pools)
        queries, keys = queries[:, None], keys[None, :]
        # As in `window_distances`.
        doubled = (queries * (2 * self.query_pool) + self.query_pool) - (keys * (2 * self.kv_pool) + self.kv_pool)
        size = torch.div(times * doubled.abs() + over - 1, 2 * over, rounding_mode="floor")
        distances = (size * doubled.sign()).clamp(-self.reach, self.reach)
        rows = self.rows.index_select(0, (distances + self.reach).flatten()).reshape(queries.shape[0], -1)
        num_rows = self.num_rows
        if not self.whole:
            furthest = (x.shape[1] + max(pools)) * times // over + 1
            num_rows = self.all_rows[: (2 * furthest // ROWS_MULTIPLE + 1) * ROWS_MULTIPLE].shape[0]
        return (queries * num_rows + rows).flatten(), (keys * num_rows + rows).flatten(), num_rows


def _in_order_of_distance(table: Tensor) -> Tensor:
    """(2 M, H) rows of buckets -M to M - 1 -> the same rows in the order of `_Index`."""
    middle = len(table) // 2
    return torch.stack([table[middle:], table[:middle].flip(0)], 1).flatten(0, 1)


def _taken(products: Tensor, index: Tensor, num_queries: int) -> Tensor:
    """(1, N, U, R) and an index of (Uq * Uk,) -> (1, N, Uq, Uk)."""
    return products.flatten(2).index_select(2, index).reshape(1, products.shape[1], num_queries, -1)


def _pooled(x: Tensor, count: Tensor, pool: int) -> Tensor:
    """(1, U, H), (1,) -> (1, ceil(U / pool), H), the mean of each window's frames."""
    if pool == 1:
        return x
    counts = _counts(x, count, pool)
    x = F.pad(x * _valid(x, count), (0, 0, 0, pool - 1))[:, : counts.shape[0] * pool]
    return x.reshape(1, -1, pool, x.shape[2]).sum(2) / counts.clamp(min=1)[:, None]


def _num_windows(x: Tensor, pool: int) -> int:
    """`pooled_length` without a negative number, which converters round towards 0."""
    return (x.shape[1] + pool - 1) // pool


def _counts(x: Tensor, count: Tensor, pool: int) -> Tensor:
    """(1, U, H), (1,) -> (ceil(U / pool),) float32, how many valid frames each window holds."""
    starts = pool * torch.arange(_num_windows(x, pool))
    return (count - starts).clamp(min=0, max=pool).float()


def _valid(x: Tensor, count: Tensor) -> Tensor:
    """(1, T, C), (1,) -> (1, T, 1) float32: 1 for the first so many frames, 0 behind."""
    return _counts(x, count, 1)[None, :, None]


def _key(pools: tuple[int, int]) -> str:
    return "{}-{}".format(*pools)

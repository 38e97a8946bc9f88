"""Disentangled attention made ready for inference: the position table projected once, scores a piece at a time.

    BlockwiseAttention, PositionBlocks   scores of a block of queries and a few heads a time, in plain PyTorch
    KernelAttention, PositionRows        scores never leave the processor: one kernel, see `kernels.py`

Memory grows with the length in both, not with its square. In the first so does the time that relative position takes,
once a clip is longer than the table reaches.

B batch, U frames, Uq queries, Uk keys, H hidden, N heads, D channels of a head, R rows of the position table.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.lengths import pooled_length
from sewkit.model.disentangled import DisentangledAttention, RelativePositions, log_buckets, round_distances
from sewkit.runtime.attention import FusedAttention

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
TRIAL_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Between two ways to compute attention whose results are about 0.1, with products in TF32 where those are allowed."""


class TableAttention(FusedAttention):
    """`DisentangledAttention` with its position table projected: what both forms for inference share.

    The table as the layer's keys and as its queries, (N, R, D) each, is scaled as its scores are.
    """

    def __init__(self, attention: DisentangledAttention, positions: RelativePositions):
        super().__init__(attention)
        table = positions.norm(positions.embedding)[None]
        table_keys, table_queries = (
            attention.split_heads(projection(table))[0] for projection in (attention.key, attention.query)
        )
        self.scale = 1 / math.sqrt(3 * table_keys.shape[2])
        self.table_keys = nn.Parameter((table_keys * self.scale).contiguous())
        self.table_queries = nn.Parameter((table_queries * self.scale).contiguous())


class TableRows(nn.Module):
    """`RelativePositions` for `TableAttention`: rows only, the layers have them projected."""

    def __init__(self, positions: RelativePositions):
        super().__init__()
        self.num_buckets, self.max_positions = positions.num_buckets, positions.max_positions
        self.unit, self.device = positions.unit, positions.embedding.device

    def of_distances(self, num_frames: int, query_pool: int, kv_pool: int, squeeze: int) -> Tensor:
        """int64 on the CPU, the row for each distance, from that of the first query and the last key on.

        What row a pair has depends on how far its query stands behind its key alone, on q * i - k * j for pools of q
        and k. So the rows of all pairs are a view of this one vector, whose ends, far away, are all alike.
        """
        queries, keys = pooled_length(num_frames, query_pool), pooled_length(num_frames, kv_pool)
        offsets = torch.arange(-kv_pool * (keys - 1), query_pool * (queries - 1) + 1)
        step = (1, 1) if self.unit is None else (squeeze, self.unit)
        distances = round_distances(2 * offsets + query_pool - kv_pool, step)
        rows = log_buckets(distances, self.num_buckets, self.max_positions) + self.num_buckets
        return rows.clamp(0, 2 * self.num_buckets - 1)


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
        rows = self.rows.expand(*by_query.shape[:2], -1, -1)
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


class PositionBlocks(TableRows):
    """The rows for `BlockwiseAttention`, and each block's place among them."""

    def forward(self, num_frames: int, query_pool: int = 1, kv_pool: int = 1, squeeze: int = 1) -> Blocks:
        """For U = `num_frames` frames."""
        queries, keys = pooled_length(num_frames, query_pool), pooled_length(num_frames, kv_pool)
        rows = self.of_distances(num_frames, query_pool, kv_pool, squeeze)
        steps, stretches = (query_pool, kv_pool), even_stretches(queries, SCORES // keys)
        used = torch.arange(int(rows[0]), int(rows[-1]) + 1)
        if len(rows) <= MOST_DISTANCES * len(used):
            widened = F.pad(rows, (0, -len(rows) % ROWS_MULTIPLE), value=int(rows[-1]))
            return Blocks(widened.to(self.device), [ShortBlock(start, stop, steps) for start, stop in stretches])
        rows -= int(used[0])
        num_first, num_others = int((rows == 0).sum()), int((rows != rows[-1]).sum())
        rows, blocks = rows.to(self.device), []
        for start, stop in stretches:
            low = min(pooled_length(max(num_first - query_pool * (stop - 1), 0), kv_pool), keys)
            high = max(min(pooled_length(max(num_others - query_pool * start, 0), kv_pool), keys), low)
            near = (stop - start, high - low), steps, query_pool * start + kv_pool * low
            blocks.append(Block(start, stop, low, high, rows.as_strided(*near)))
        return Blocks(used.to(self.device), blocks)


def even_stretches(queries: int, wanted: int) -> list[tuple[int, int]]:
    """Queries from and to, in stretches of about as many as `wanted`, within QUERIES."""
    size = min(max(wanted, QUERIES[0]), QUERIES[1])
    size = math.ceil(queries / math.ceil(queries / size))
    return [(start, min(start + size, queries)) for start in range(0, queries, size)]


class BlockwiseAttention(TableAttention):
    """Scores of a block of queries and a few heads a time.

    Keys are gone through from the last to the first: then a pair's products with the table lie steps apart.
    """

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
        table_keys = self.table_keys[heads, positions.rows].transpose(1, 2)
        by_key = self.table_queries[heads, positions.rows] @ key.transpose(2, 3)  # (B, N, R, Uk)
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


class Rows(NamedTuple):
    """The rows of the position table from `first` to `stop`, and for each distance the one it has, counted from there.

    of_distance: (number of distances,) int32, see `TableRows.of_distances`. steps: how many distances further the next
    query and the next key are.
    """

    first: int
    stop: int
    of_distance: Tensor
    steps: tuple[int, int]


class PositionRows(TableRows):
    """The rows for `KernelAttention`, as it looks them up."""

    def forward(self, num_frames: int, query_pool: int = 1, kv_pool: int = 1, squeeze: int = 1) -> Rows:
        """For U = `num_frames` frames."""
        rows = self.of_distances(num_frames, query_pool, kv_pool, squeeze)
        wanted = int(rows[-1]) + 1 - int(rows[0])
        size = min(wanted + -wanted % ROWS_MULTIPLE, 2 * self.num_buckets)
        first = min(int(rows[0]), 2 * self.num_buckets - size)
        of_distance = (rows - first).int().to(self.device, non_blocking=True)
        return Rows(first, first + size, of_distance, (query_pool, kv_pool))


class KernelAttention(TableAttention):
    """One kernel for a GPU."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, positions: Rows | None
    ) -> Tensor:
        """See `DisentangledAttention.attend`."""
        from sewkit.runtime.kernels import attend_disentangled

        assert positions is not None, "the encoder hands its positions to every layer"
        used = slice(positions.first, positions.stop)
        return attend_disentangled(
            query,
            key,
            value,
            by_query=_products(query, self.table_keys[:, used]),
            by_key=_products(key, self.table_queries[:, used]),
            rows=positions.of_distance,
            steps=positions.steps,
            key_bias=_key_bias(key_mask, key),
            scale=self.scale,
        )


def _products(x: Tensor, table: Tensor) -> Tensor:
    """(B, N, U, D) by (N, R, D) -> (N, B, U, R); heads first, so that the table is multiplied with whole matrices."""
    return (x.transpose(0, 1).flatten(1, 2) @ table.transpose(1, 2)).unflatten(1, (len(x), -1))


def _key_bias(key_mask: Tensor | None, key: Tensor) -> Tensor:
    """(B, 1, 1, Uk) of either kind, see `SelfAttention.forward` -> (B, Uk) float32 that is added to scores."""
    if key_mask is None:
        return key.new_zeros(len(key), key.shape[2], dtype=torch.float32)
    mask = key_mask[:, 0, 0]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -math.inf)
    return mask.float().contiguous()


@functools.cache
def kernel_works(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `KernelAttention` runs here and gives what `BlockwiseAttention` gives: it is tried once, on a toy.

    Warns where Triton is there but the kernel is not used.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    try:
        if torch.allclose(*_both_ways(device, dtype), atol=TRIAL_TOLERANCE[dtype], rtol=0):
            return True
        reason = "its results differ"
    except Exception as error:  # whatever a compiler or a driver raises: there is another way
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    warnings.warn(f"attention of SEW-D runs without its kernel, which does not work here: {reason}", stacklevel=2)
    return False


@torch.inference_mode()
def _both_ways(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What the kernel and plain PyTorch make of the same frames, two clips of different lengths."""
    frames, hidden, heads = 70, 128, 2
    with torch.random.fork_rng(devices=[]):  # loading a model leaves the caller's random numbers as they were
        attention = DisentangledAttention(hidden, heads, dropout=0.0, position_dropout=0.0).to(device, dtype)
        positions = RelativePositions(hidden, num_buckets=16, max_positions=32, eps=1e-7).to(device, dtype)
        x = torch.randn(2, frames, hidden).to(device, dtype)
    mask = torch.arange(frames, device=device) < torch.tensor([[frames], [frames // 2]], device=device)
    by_kernel, in_blocks = (
        form(attention, positions)(x, mask[:, None, None], rows(positions)(frames))
        for form, rows in ((KernelAttention, PositionRows), (BlockwiseAttention, PositionBlocks))
    )
    return by_kernel, in_blocks

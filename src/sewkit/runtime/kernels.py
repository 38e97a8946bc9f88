"""Disentangled attention as one GPU kernel, in Triton, which comes with PyTorch for CUDA.

Scores live in registers only: a program takes the queries of a tile and goes through all keys with a running softmax
(FlashAttention), adding to each score the two products with the position table that belong to the pair's distance. In
memory there are queries by rows of the table, which do not grow with the square of the length.

This module needs Triton to be imported. B batch, N heads, Uq queries, Uk keys, D channels of a head, R rows of the
table that are reached.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILES = {torch.float32: (32, 32), torch.float16: (64, 32), torch.bfloat16: (64, 32)}
"""Queries of a program, and keys that it takes at a time: the largest with which nothing leaves the registers, in heads
of 64 channels compiled for compute capabilities 8.0 to 12.0."""
LEAST_CHANNELS = 16
"""Tensor cores multiply no fewer."""
CHANGING = ("num_queries", "num_keys", "first_row")
"""Arguments that differ from batch to batch: the kernel is not compiled anew for numbers that 16 divides. Strides are
divisible wherever the hidden size is, and loads as wide as that allows."""


@triton.jit(do_not_specialize=CHANGING)
def disentangled_kernel(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    by_query,
    by_key,
    rows,
    key_bias,
    context,
    scale,
    num_queries,
    num_keys,
    num_rows,
    first_row,
    query_step,
    key_step,
    query_batch,
    query_head,
    query_frame,
    key_batch,
    key_head,
    key_frame,
    value_batch,
    value_head,
    value_frame,
    num_heads: tl.constexpr,
    channels: tl.constexpr,
    channels_held: tl.constexpr,
    tile_queries: tl.constexpr,
    tile_keys: tl.constexpr,
    precision: tl.constexpr,
):
    """Context of one tile of queries of one head of one clip; arguments as `attend_disentangled` hands them on.

    Row of a pair: rows[first_row + query_step * query - key_step * key].
    """
    clip, head = tl.program_id(1) // num_heads, tl.program_id(1) % num_heads
    queries = tl.program_id(0) * tile_queries + tl.arange(0, tile_queries)
    channel = tl.arange(0, channels_held)
    has_query, has_channel = queries < num_queries, channel < channels

    query += clip.to(tl.int64) * query_batch + head * query_head
    key += clip.to(tl.int64) * key_batch + head * key_head
    value += clip.to(tl.int64) * value_batch + head * value_head
    pair = head.to(tl.int64) * (tl.num_programs(1) // num_heads) + clip  # the products' first two axes are N, B
    by_query += pair * num_queries * num_rows + queries[:, None] * num_rows
    by_key += pair * num_keys * num_rows

    q = tl.load(
        query + queries[:, None] * query_frame + channel[None, :],
        mask=has_query[:, None] & has_channel[None, :],
        other=0.0,
    )
    highest = tl.full([tile_queries], float("-inf"), tl.float32)
    total = tl.zeros([tile_queries], tl.float32)
    mixed = tl.zeros([tile_queries, channels_held], tl.float32)
    for first in range(0, num_keys, tile_keys):
        keys = first + tl.arange(0, tile_keys)
        has_key = keys < num_keys
        is_held, is_pair = has_key[:, None] & has_channel[None, :], has_query[:, None] & has_key[None, :]
        k = tl.load(key + keys[:, None] * key_frame + channel[None, :], mask=is_held, other=0.0)
        offset = first_row + query_step * queries[:, None] - key_step * keys[None, :]
        row = tl.load(rows + offset, mask=is_pair, other=0)
        scores = tl.dot(q, tl.trans(k), input_precision=precision) * scale
        scores += tl.load(by_query + row, mask=is_pair, other=0.0)
        scores += tl.load(by_key + keys[None, :] * num_rows + row, mask=is_pair, other=0.0)
        scores += tl.load(key_bias + clip * num_keys + keys, mask=has_key, other=float("-inf"))[None, :]
        # The first tile has a key that may be attended to, so `highest` is a number from it on.
        now_highest = tl.maximum(highest, tl.max(scores, 1))
        shrunk = tl.exp(highest - now_highest)
        weights = tl.exp(scores - now_highest[:, None])
        total = total * shrunk + tl.sum(weights, 1)
        v = tl.load(value + keys[:, None] * value_frame + channel[None, :], mask=is_held, other=0.0)
        mixed = mixed * shrunk[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=precision)
        highest = now_highest
    context += ((clip.to(tl.int64) * num_queries + queries[:, None]) * num_heads + head) * channels + channel[None, :]
    tl.store(context, mixed / total[:, None], mask=has_query[:, None] & has_channel[None, :])


def attend_disentangled(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    by_query: Tensor,
    by_key: Tensor,
    rows: Tensor,
    steps: tuple[int, int],
    key_bias: Tensor,
    scale: float,
) -> Tensor:
    """(B, N, Uq, D), (B, N, Uk, D) twice -> (B, N, Uq, D); channels lie together, of any strides else.

    Args:
        by_query: (N, B, Uq, R) products of queries with the table, scaled. Contiguous, like all that follow.
        by_key: (N, B, Uk, R) products of keys with the table, scaled.
        rows: int32, the table's row for each distance, that of the first query and the last key first.
        steps: how many distances further the next query and the next key are.
        key_bias: (B, Uk) float32, added to the scores of each key; the first key's is finite.
        scale: of the scores by content.
    """
    batch, num_heads, num_queries, channels = query.shape
    num_keys = key.shape[2]
    context = query.new_empty(batch, num_queries, num_heads, channels)
    tile_queries, tile_keys = TILES[query.dtype]
    grid = (triton.cdiv(num_queries, tile_queries), batch * num_heads)
    with torch.cuda.device_of(query):  # where Triton would launch it on the first GPU
        disentangled_kernel[grid](
            query,
            key,
            value,
            by_query,
            by_key,
            rows,
            key_bias,
            context,
            scale,
            num_queries,
            num_keys,
            by_query.shape[3],
            steps[1] * (num_keys - 1),
            *steps,
            *query.stride()[:3],
            *key.stride()[:3],
            *value.stride()[:3],
            num_heads=num_heads,
            channels=channels,
            channels_held=max(LEAST_CHANNELS, triton.next_power_of_2(channels)),
            tile_queries=tile_queries,
            tile_keys=tile_keys,
            precision="ieee",
        )
    return context.transpose(1, 2)

"""Plain multi-head self-attention (wav2vec 2.0, SEW), with pooling where an operating point has it.

B batch, U frames, Uq queries, Uk keys, H hidden, N heads, D channels of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.model.pooling import NO_POOLING, Pooling

Positions = tuple[Tensor, Tensor]
"""Vectors of relative positions (R, H), and for each pair of query and key the row that holds its own (Uq, Uk)."""


WRITTEN_OUT_KEYS = 512
"""Of more keys than these the scores, which training has to keep, would need much memory."""


class SelfAttention(nn.Module):
    """Scaled dot-product attention with biases on all four projections."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, x: Tensor, key_mask: Tensor | None, positions: Positions | None = None, pooling: Pooling = NO_POOLING
    ) -> Tensor:
        """(B, U, H) -> (B, U, H), by way of (B, Uq, H) queries and (B, Uk, H) keys, both of U frames if not pooled.

        `key_mask` (B, 1, 1, Uk): bool, see `lengths.key_mask`, or what is added to scores, see `Windows.key_bias`.
        `positions` is for SEW-D.
        """
        queries, keys = pooling.pool(x)
        query = self.split_heads(self.query(queries))
        key, value = self.split_heads(self.key(keys)), self.split_heads(self.value(keys))
        context = self.attend(query, key, value, key_mask, positions)
        return pooling.spread(self.output(context.transpose(1, 2).flatten(2)))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, positions: Positions | None
    ) -> Tensor:
        """(B, N, Uq, D), (B, N, Uk, D) twice -> (B, N, Uq, D)."""
        if key_mask is not None and key_mask.dtype != torch.bool:
            key_mask = key_mask.to(query.dtype)
        dropout = self.dropout if self.training else 0.0
        if _is_better_written_out(query, key):
            return _written_out(query, key, value, key_mask, dropout)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, U, H) -> (B, N, U, D)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


def _is_better_written_out(query: Tensor, key: Tensor) -> bool:
    """On a CPU torch's attention in bfloat16 takes two to four times as long as its products, forward and back."""
    is_bfloat16 = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return is_bfloat16 and query.requires_grad and key.shape[2] <= WRITTEN_OUT_KEYS


def _written_out(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, dropout: float) -> Tensor:
    """`F.scaled_dot_product_attention`, for rows of at least one frame."""
    scores = (query * query.shape[3] ** -0.5) @ key.transpose(2, 3)
    if key_mask is not None and key_mask.dtype == torch.bool:
        scores = scores.masked_fill(~key_mask, -math.inf)
    elif key_mask is not None:
        scores = scores + key_mask
    return F.dropout(scores.softmax(3).to(value.dtype), dropout) @ value

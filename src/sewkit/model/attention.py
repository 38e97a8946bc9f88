"""Plain multi-head self-attention (wav2vec 2.0, SEW). B batch, U frames, H hidden, N heads, D channels of a head."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

Positions = tuple[Tensor, Tensor]
"""Vectors of relative positions (R, H), and for each pair of frames the row that holds its own (U, U)."""


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

    def forward(self, x: Tensor, key_mask: Tensor | None, positions: Positions | None = None) -> Tensor:
        """(B, U, H) -> (B, U, H); `key_mask` (B, 1, 1, U), see `lengths.key_mask`; `positions` is for SEW-D."""
        query, key, value = (self.split_heads(layer(x)) for layer in (self.query, self.key, self.value))
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask, dropout_p=dropout)
        return self.output(context.transpose(1, 2).flatten(2))

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, U, H) -> (B, N, U, D)."""
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

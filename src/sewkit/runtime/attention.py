"""Plain attention made ready for inference: key and value by one matrix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.model.attention import SelfAttention
from sewkit.model.pooling import NO_POOLING, Pooling
from sewkit.runtime.product import Product, product


class FusedAttention(nn.Module):
    """`SelfAttention` whose key and value come of one matrix."""

    def __init__(self, attention: SelfAttention):
        super().__init__()
        pair = (attention.key, attention.value)
        self.query, self.output = product(attention.query), product(attention.output)
        self.key_value = Product(torch.cat([one.weight for one in pair]), torch.cat([one.bias for one in pair]))
        self.num_heads = attention.num_heads

    def forward(
        self, x: Tensor, key_mask: Tensor | None, positions: Any = None, pooling: Pooling = NO_POOLING
    ) -> Tensor:
        """See `SelfAttention.forward`; `positions` as `disentangled.py` has them."""
        queries, keys = pooling.pool(x)
        parts = (self.query(queries), *self.key_value(keys).chunk(2, 2))
        query, key, value = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        context = self.attend(query, key, value, key_mask, positions)
        return pooling.spread(self.output(context.transpose(1, 2).flatten(2)))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, positions: Any) -> Tensor:
        """See `SelfAttention.attend`."""
        if key_mask is not None and key_mask.dtype != torch.bool:
            key_mask = key_mask.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=key_mask)

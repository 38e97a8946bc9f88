"""Disentangled self-attention of SEW-D (SEW section 4.4, after DeBERTa arXiv 2006.03654).

A pair of frames i, j is scored by content and by relative position, three terms of equal weight:

    score(i, j) = [ Q_i . K_j  +  Q_i . Kr[b(i - j)]  +  K_j . Qr[b(i - j)] ] / sqrt(3 D)

Kr and Qr are the rows of one shared position table, put through the layer's own key and query projections
(share_att_key); b is a bucket: exact up to half the number of buckets, logarithmic beyond. The original computes the
last term at index -b(j - i); b is odd, so both terms share one index.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.model.attention import Positions, SelfAttention


def log_buckets(distances: Tensor, num_buckets: int, max_positions: int) -> Tensor:
    """Signed bucket of each signed distance in frames (DeBERTa's make_log_bucket_position). Any shape, int64."""
    middle = num_buckets // 2
    size = distances.abs().clamp(min=middle)
    scale = (middle - 1) / math.log((max_positions - 1) / middle)
    # float64: a result that lands on a whole number must not be pushed over it by rounding before ceil.
    logarithmic = torch.ceil(torch.log(size.double() / middle) * scale).long() + middle
    return torch.where(distances.abs() <= middle, distances, logarithmic * distances.sign())


class RelativePositions(nn.Module):
    """The table of position vectors that all layers share, and the LayerNorm it passes once per forward."""

    def __init__(self, hidden_size: int, num_buckets: int, max_positions: int, eps: float):
        super().__init__()
        self.num_buckets = num_buckets
        self.max_positions = max_positions
        self.embedding = nn.Parameter(torch.randn(2 * num_buckets, hidden_size))
        self.norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, num_frames: int) -> Positions:
        """Rows of the table that `num_frames` frames can reach, (R, H), and for each pair i, j its row, (U, U)."""
        frames = torch.arange(num_frames, device=self.embedding.device)
        distances = frames[:, None] - frames[None, :]
        rows = log_buckets(distances, self.num_buckets, self.max_positions) + self.num_buckets
        rows = rows.clamp(0, 2 * self.num_buckets - 1)
        first, last = int(rows[0, -1]), int(rows[-1, 0])
        return self.norm(self.embedding[first : last + 1]), rows - first


class DisentangledAttention(SelfAttention):
    """Self-attention whose scores know relative position; same four projections as the plain one."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, position_dropout: float):
        super().__init__(hidden_size, num_heads, dropout)
        self.position_dropout = nn.Dropout(position_dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None, positions: Positions | None = None) -> Tensor:
        """(B, U, H) -> (B, U, H); `positions` from `RelativePositions`, made once for all layers."""
        assert positions is not None, "the encoder hands the position table to every layer"
        query, key, value = (self.split_heads(layer(x)) for layer in (self.query, self.key, self.value))
        scale = 1 / math.sqrt(3 * query.shape[3])
        scores = self.position_scores(query, key, *positions) * scale
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask, -math.inf)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=scores, dropout_p=dropout, scale=scale)
        return self.output(context.transpose(1, 2).flatten(2))

    def position_scores(self, query: Tensor, key: Tensor, table: Tensor, index: Tensor) -> Tensor:
        """Content-to-position plus position-to-content terms, (B, N, U, U), not yet scaled."""
        table = self.position_dropout(table)[None]
        table_keys, table_queries = self.split_heads(self.key(table)), self.split_heads(self.query(table))
        shape = (*query.shape[:2], *index.shape)
        content_to_position = (query @ table_keys.transpose(2, 3)).gather(3, index.expand(shape))
        position_to_content = (key @ table_queries.transpose(2, 3)).gather(3, index.T.expand(shape))
        return content_to_position + position_to_content.transpose(2, 3)

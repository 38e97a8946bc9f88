"""Disentangled self-attention of SEW-D (SEW section 4.4, after DeBERTa arXiv 2006.03654).

A pair of frames i, j is scored by content and by relative position, three terms of equal weight:

    score(i, j) = [ Q_i . K_j  +  Q_i . Kr[b(i - j)]  +  K_j . Qr[b(i - j)] ] / sqrt(3 D)

Kr and Qr are the rows of one shared position table, put through the layer's own key and query projections
(share_att_key); b is a bucket: exact up to half the number of buckets, logarithmic beyond. The original computes the
last term at index -b(j - i); b is odd, so both terms share one index.

With pooled queries or keys, i and j are the centres of their windows, full ones even at a clip's end, so that what a
row gets depends on no length. A stochastic model counts distances in squeezed frames of the factor that runs, so that
every factor is a plain SEW-D; or, with `position_unit`, in a unit of time that is the same for all factors. Distances
that come out between whole steps go to the nearer one, a half towards 0: odd, and the frames of a pooled query's own
window stay at distance 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.lengths import pooled_length
from sewkit.model.attention import Positions, SelfAttention


def log_buckets(distances: Tensor, num_buckets: int, max_positions: int) -> Tensor:
    """Signed bucket of each signed distance in frames (DeBERTa's make_log_bucket_position). Any shape, int64."""
    middle = num_buckets // 2
    size = distances.abs().clamp(min=middle)
    scale = (middle - 1) / math.log((max_positions - 1) / middle)
    # float64: a result that lands on a whole number must not be pushed over it by rounding before ceil.
    logarithmic = torch.ceil(torch.log(size.double() / middle) * scale).long() + middle
    return torch.where(distances.abs() <= middle, distances, logarithmic * distances.sign())


def window_distances(
    num_frames: int,
    query_pool: int = 1,
    kv_pool: int = 1,
    step: tuple[int, int] = (1, 1),
    device: torch.device | None = None,
) -> Tensor:
    """(Uq, Uk) int64: distances from key windows' centres to query windows', of U = `num_frames` frames.

    `step` (a, b): a steps are b frames. For rounding see the head of this file.
    """
    doubled_centres = (
        torch.arange(pooled_length(num_frames, pool), device=device) * (2 * pool) + pool
        for pool in (query_pool, kv_pool)
    )
    queries, keys = doubled_centres
    return round_distances(queries[:, None] - keys[None, :], step)


def round_distances(doubled: Tensor, step: tuple[int, int]) -> Tensor:
    """Twice the distances in frames -> whole steps, a half towards 0; all int64. `step` as in `window_distances`."""
    times, over = step
    return (times * doubled.abs() + over - 1) // (2 * over) * doubled.sign()


class RelativePositions(nn.Module):
    """The table of position vectors that all layers share, and the LayerNorm it passes once per forward.

    unit: 50 Hz frames in a step of distance; None for a squeezed frame, whatever the factor.
    """

    def __init__(self, hidden_size: int, num_buckets: int, max_positions: int, eps: float, unit: int | None = None):
        super().__init__()
        self.num_buckets = num_buckets
        self.max_positions = max_positions
        self.unit = unit
        self.embedding = nn.Parameter(torch.randn(2 * num_buckets, hidden_size))
        self.norm = nn.LayerNorm(hidden_size, eps=eps)

    def forward(self, num_frames: int, query_pool: int = 1, kv_pool: int = 1, squeeze: int = 1) -> Positions:
        """Rows of the table that U = `num_frames` frames reach, (R, H), and each pair's row among them, (Uq, Uk)."""
        step = (1, 1) if self.unit is None else (squeeze, self.unit)
        distances = window_distances(num_frames, query_pool, kv_pool, step, self.embedding.device)
        rows = log_buckets(distances, self.num_buckets, self.max_positions) + self.num_buckets
        rows = rows.clamp(0, 2 * self.num_buckets - 1)
        first, last = int(rows[0, -1]), int(rows[-1, 0])
        return self.norm(self.embedding[first : last + 1]), rows - first


class DisentangledAttention(SelfAttention):
    """Self-attention whose scores know relative position; same four projections as the plain one."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, position_dropout: float):
        super().__init__(hidden_size, num_heads, dropout)
        self.position_dropout = nn.Dropout(position_dropout)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None, positions: Positions | None
    ) -> Tensor:
        """See `SelfAttention.attend`; `positions` from `RelativePositions`, once for all layers that pool alike."""
        assert positions is not None, "the encoder hands the position table to every layer"
        scale = 1 / math.sqrt(3 * query.shape[3])
        scores = self.position_scores(query, key, *positions) * scale
        if key_mask is not None and key_mask.dtype == torch.bool:
            scores = scores.masked_fill(~key_mask, -math.inf)
        elif key_mask is not None:
            scores = scores + key_mask.to(scores.dtype)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, attn_mask=scores, dropout_p=dropout, scale=scale)

    def position_scores(self, query: Tensor, key: Tensor, table: Tensor, index: Tensor) -> Tensor:
        """Content-to-position plus position-to-content terms, (B, N, Uq, Uk), not yet scaled."""
        table = self.position_dropout(table)[None]
        table_keys, table_queries = self.split_heads(self.key(table)), self.split_heads(self.query(table))
        rows = query.shape[:2]
        content_to_position = (query @ table_keys.transpose(2, 3)).gather(3, index.expand(*rows, -1, -1))
        position_to_content = (key @ table_queries.transpose(2, 3)).gather(3, index.T.expand(*rows, -1, -1))
        return content_to_position + position_to_content.transpose(2, 3)

"""Product quantisation with Gumbel softmax: the targets of wav2vec 2.0 (section 2, "quantization module").

B batch, M masked frames, C channels, G groups, V entries of a group, D = vq_dim / G channels of an entry.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.collective import sum_over_processes


def temperature_at(update: int, schedule: tuple[float, float, float]) -> float:
    """The Gumbel temperature of an update: from `start` down to `end`, by a factor of `decay` each update."""
    start, end, decay = schedule
    return max(start * decay**update, end)


class Quantized(NamedTuple):
    """What the quantiser made of a batch."""

    vectors: Tensor
    """(B, M, vq_dim)."""
    codes: Tensor
    """(B, M, G) int64 in [0, V): the entries that the vectors are made of."""
    prob_perplexity: Tensor
    """Scalar, from G to G * V: how many entries the softmax without noise spreads over, on average of all frames of all
    processes; summed over the groups. The diversity loss wants it high."""
    code_perplexity: Tensor
    """Scalar: the same of the most likely entries. No gradient, for the log."""


class GumbelQuantizer(nn.Module):
    """Chooses for each frame one entry of every group and gives them joined.

    In the forward pass that is an index; the gradient is that of a softmax over all entries at some temperature
    (straight-through, Jang et al. 2016). The largest tensor is (B, M, G, V).
    """

    def __init__(self, feature_size: int, groups: int, entries: int, vq_dim: int):
        super().__init__()
        self.logits = nn.Linear(feature_size, groups * entries)
        self.codebook = nn.Parameter(torch.rand(groups, entries, vq_dim // groups))
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, features: Tensor, temperature: float = 1.0, noise: Tensor | None = None) -> Quantized:
        """(B, M, C) normed features, Gumbel noise (B, M, G, V) or None -> vectors, codes, perplexities.

        Without noise, as in evaluation, the most likely entries are taken, and no gradient reaches `logits` through
        them. All is float32: weights are drawn from N(0, 1), so logits reach a hundred, where bfloat16 knows halves.
        """
        with torch.autocast(features.device.type, enabled=False):
            logits = self.logits(features.float()).unflatten(-1, self.codebook.shape[:2])
            if noise is None:
                codes = logits.argmax(dim=-1)
                vectors = self.look_up(codes)
            else:
                soft = ((logits + noise) / temperature).softmax(dim=-1)
                codes = soft.argmax(dim=-1)
                vectors = self.look_up(codes) + self._straight_through(soft)
            return Quantized(vectors, codes, *self._perplexities(logits))

    def look_up(self, codes: Tensor) -> Tensor:
        """(B, M, G) -> (B, M, vq_dim)."""
        groups, entries, _ = self.codebook.shape
        rows = codes + entries * torch.arange(groups, device=codes.device)
        return F.embedding(rows, self.codebook.flatten(0, 1)).flatten(-2)

    def _straight_through(self, soft: Tensor) -> Tensor:
        """(B, M, G, V) -> zeros (B, M, vq_dim) with the gradient of the entries' mean, weighted by `soft`.

        That is fairseq's: its hard one-hot passes its gradient on to `soft`, and times the code book it is the vectors.
        """
        mean = torch.einsum("...gv,gvd->...gd", soft, self.codebook.detach()).flatten(-2)
        return mean - mean.detach()

    def _perplexities(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """(B, M, G, V) -> both perplexities, over the frames of all processes in training."""
        rows = logits.flatten(0, -3)
        best = rows.argmax(dim=-1).T
        hard = rows.new_zeros(rows.shape[1:]).scatter_add_(1, best, torch.ones_like(best, dtype=rows.dtype))
        sums, count = torch.stack([rows.softmax(dim=-1).sum(0), hard]), rows.new_tensor(len(rows))
        if self.training:
            sums, count = sum_over_processes(sums), sum_over_processes(count)
        probs, hard = sums / count.clamp(min=1)
        return _perplexity(probs), _perplexity(hard.detach())


def _perplexity(probs: Tensor) -> Tensor:
    """(G, V) distributions -> the sum of their perplexities; fairseq's eps."""
    return (-(probs * (probs + 1e-7).log()).sum(-1)).exp().sum()

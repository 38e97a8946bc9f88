"""The transformer encoder: wav2vec 2.0 section 2, in its post-norm (base) and pre-norm (large, LV-60k) forms.

Layers are given their attention, so SEW-D differs by the attention it hands in and by its position table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sewkit.lengths import key_mask
from sewkit.model.attention import Positions


class FeedForward(nn.Module):
    """Linear H -> F, GELU, linear F -> H."""

    def __init__(self, hidden_size: int, ffn_size: int, activation_dropout: float):
        super().__init__()
        self.up = nn.Linear(hidden_size, ffn_size)
        self.down = nn.Linear(ffn_size, hidden_size)
        self.dropout = nn.Dropout(activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, U, H) -> (B, U, H)."""
        return self.down(self.dropout(F.gelu(self.up(x))))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual; LayerNorm after the sum (post-norm) or before (pre-norm)."""

    def __init__(self, attention: nn.Module, feed_forward: FeedForward, norm_first: bool, eps: float, dropout: float):
        super().__init__()
        hidden_size = feed_forward.up.in_features
        self.attention = attention
        self.attention_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=eps)
        self.norm_first = norm_first
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None, positions: Positions | None) -> Tensor:
        """(B, U, H) -> (B, U, H)."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), key_mask, positions))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, key_mask, positions)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


_UNSEEDED = torch.Generator().initial_seed()


class Encoder(nn.Module):
    """A stack of layers with LayerDrop. `norm` comes before post-norm layers, after pre-norm ones; SEW-D has none.

    Attributes for training:
        layer_random: the CPU generator that LayerDrop draws from. Seed it before each update, with the same number in
            all processes, so that they drop the same layers. While nobody has, torch's own generator is drawn from.
        checkpoint_layers: keep only the layers' inputs for the backward pass, which computes the rest again. Saves
            memory for about a third more time; the gradients are the same.
    """

    def __init__(
        self,
        layers: list[EncoderLayer],
        norm: nn.LayerNorm | None,
        positions: Callable[[int], Positions] | None,
        dropout: float,
        layerdrop: float,
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.positions = positions
        self.norm_first = bool(layers) and layers[0].norm_first
        self.dropout = nn.Dropout(dropout)
        self.layerdrop = layerdrop
        self.layer_random = torch.Generator()
        self.checkpoint_layers = False

    def forward(self, x: Tensor, lengths: Tensor) -> list[Tensor]:
        """(B, U, H), (B,) -> the input of the first layer and the output of each, num_layers + 1 times (B, U, H).

        As in transformers' hidden_states, the last one has passed the final norm of a pre-norm stack.
        """
        mask = key_mask(lengths, x.shape[1])
        positions = self.positions(x.shape[1]) if self.positions is not None else None
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        x = self.dropout(x)
        states = [x]
        for layer, dropped in zip(self.layers, self._draw_dropped(), strict=True):
            if not dropped:
                x = self._run(layer, x, mask, positions)
            states.append(x)
        if self.norm is not None and self.norm_first:
            states[-1] = self.norm(x)
        return states

    def _draw_dropped(self) -> list[bool]:
        """Which layers this forward skips."""
        if not (self.training and self.layerdrop):
            return [False] * len(self.layers)
        seeded = self.layer_random.initial_seed() != _UNSEEDED
        draws = torch.rand(len(self.layers), generator=self.layer_random if seeded else None, device="cpu")
        return (draws < self.layerdrop).tolist()

    def _run(self, layer: nn.Module, x: Tensor, mask: Tensor | None, positions: Positions | None) -> Tensor:
        if self.checkpoint_layers and self.training and torch.is_grad_enabled():
            return checkpoint(layer, x, mask, positions, use_reentrant=False)
        return layer(x, mask, positions)

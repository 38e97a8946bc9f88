"""The transformer encoder: wav2vec 2.0 section 2, in its post-norm (base) and pre-norm (large, LV-60k) forms.

Layers are given their attention, so SEW-D differs by the attention it hands in and by its position table.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sewkit.compute import Compute
from sewkit.lengths import key_mask
from sewkit.model.attention import Positions
from sewkit.model.pooling import NO_POOLING, Pooling, Windows

Surroundings = tuple[Tensor | None, Positions | None, Pooling]
"""What a layer is handed beside its frames: key mask, positions, pooling."""
UNPOOLED = Compute()


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

    def forward(
        self, x: Tensor, key_mask: Tensor | None, positions: Positions | None, pooling: Pooling = NO_POOLING
    ) -> Tensor:
        """(B, U, H) -> (B, U, H); what else there is goes to `SelfAttention`."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), key_mask, positions, pooling))
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, key_mask, positions, pooling)))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


_UNSEEDED = torch.Generator().initial_seed()


class Encoder(nn.Module):
    """A stack of layers with LayerDrop. `norm` comes before post-norm layers, after pre-norm ones; SEW-D has none.

    Attributes for training:
        layer_random: the CPU generator that LayerDrop draws from. Seed it before each update, with the same number in
            all processes, so that they drop the same layers. While nobody has, torch's own generator is drawn from.
        checkpoint_layers: keep only the layers' inputs for the backward pass, which computes the rest again. Saves
            memory for about a third more time; the gradients are the same.

    And for inference:
        keep_states: False where nothing reads the layers' states: the last one alone is kept.
    """

    def __init__(
        self,
        layers: list[EncoderLayer],
        norm: nn.LayerNorm | None,
        positions: Callable[..., Positions] | None,
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
        self.keep_states = True

    def forward(self, x: Tensor, lengths: Tensor, compute: Compute = UNPOOLED) -> list[Tensor]:
        """(B, U, H), (B,) -> the input of the first layer and the output of each, num_layers + 1 times (B, U, H).

        Without `keep_states`, the last of them.

        `compute` says what each layer pools. As in transformers' hidden_states, the last output has passed the final
        norm of a pre-norm stack.
        """
        pools = compute.pools(len(self.layers))
        surroundings = {pair: self._surroundings(lengths, x.shape[1], *pair, compute.squeeze) for pair in set(pools)}
        if self.norm is not None and not self.norm_first:
            x = self.norm(x)
        x = self.dropout(x)
        states = [x]
        for layer, pair, dropped in zip(self.layers, pools, self._draw_dropped(), strict=True):
            if not dropped:
                x = self._run(layer, x, surroundings[pair])
            states = [*states, x] if self.keep_states else [x]
        if self.norm is not None and self.norm_first:
            states[-1] = self.norm(x)
        return states

    def _surroundings(self, lengths: Tensor, size: int, query_pool: int, kv_pool: int, squeeze: int) -> Surroundings:
        """Made once for all layers that pool alike."""
        pooling = Pooling(Windows.over(lengths, size, query_pool), Windows.over(lengths, size, kv_pool))
        mask = key_mask(lengths, size) if pooling.keys is None else pooling.keys.key_bias()
        positions = self.positions(size, query_pool, kv_pool, squeeze) if self.positions is not None else None
        return mask, positions, pooling

    def _draw_dropped(self) -> list[bool]:
        """Which layers this forward skips."""
        if not (self.training and self.layerdrop):
            return [False] * len(self.layers)
        seeded = self.layer_random.initial_seed() != _UNSEEDED
        draws = torch.rand(len(self.layers), generator=self.layer_random if seeded else None, device="cpu")
        return (draws < self.layerdrop).tolist()

    def _run(self, layer: nn.Module, x: Tensor, surroundings: Surroundings) -> Tensor:
        if self.checkpoint_layers and self.training and torch.is_grad_enabled():
            return checkpoint(layer, x, *surroundings, use_reentrant=False)
        return layer(x, *surroundings)

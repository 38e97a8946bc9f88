"""Heads: what is put on the encoder for a task. Each takes (encoded frames, layer states, lengths)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sewkit.lengths import valid_mask


class CTCHead(nn.Linear):
    """Letter scores for every frame at 50 Hz (wav2vec 2.0 section 3.3)."""

    def __init__(self, hidden_size: int, vocab_size: int, dropout: float):
        super().__init__(hidden_size, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) -> (B, T, V)."""
        return super().forward(self.dropout(x))


class ClassificationHead(nn.Module):
    """Scores of a whole utterance: projector, mean over valid frames, classifier (SUPERB, arXiv 2105.01051).

    With `layer_weights` the input is a learned mix of all layers, at the squeezed rate with lengths to match.
    (transformers takes lengths at the full rate there, which shows on padded batches.)
    """

    def __init__(self, hidden_size: int, projection_size: int, num_labels: int, num_mixed_layers: int | None):
        super().__init__()
        self.projector = nn.Linear(hidden_size, projection_size)
        self.classifier = nn.Linear(projection_size, num_labels)
        self.layer_weights: nn.Parameter | None = None
        if num_mixed_layers is not None:
            self.layer_weights = nn.Parameter(torch.ones(num_mixed_layers) / num_mixed_layers)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, H), (B,) -> (B, labels)."""
        x = self.projector(x)
        valid = valid_mask(lengths, x.shape[1])[:, :, None]
        mean = x.masked_fill(~valid, 0.0).sum(1) / lengths.clamp(min=1)[:, None]
        return self.classifier(mean)

    def mix(self, states: list[Tensor]) -> Tensor:
        """(B, U, H) of every layer -> their mix, (B, U, H)."""
        assert self.layer_weights is not None
        return torch.einsum("l,lbuh->buh", self.layer_weights.softmax(0), torch.stack(states))

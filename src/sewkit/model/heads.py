"""Heads: what is put on the encoder for a task; for pre-training, the predictor heads of SEW."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.collective import num_processes, sum_over_processes
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
        self.projector: nn.Module = nn.Linear(hidden_size, projection_size)
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


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation in float32 whose statistics are those of all processes together, also with gloo.

    Processes may hand in different numbers of rows. Parameters and buffers are those of BatchNorm1d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(rows, C) -> (rows, C) float32."""
        x = x.float()
        if not self.training or num_processes() == 1:
            return super().forward(x)
        count = sum_over_processes(x.new_tensor(x.shape[0]))
        mean = sum_over_processes(x.sum(0)) / count
        centered = x - mean
        variance = sum_over_processes(centered.square().sum(0)) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        return centered * (self.weight * torch.rsqrt(variance + self.eps)) + self.bias

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class MLPHead(nn.Module):
    """SEW's predictor head (arXiv 2109.06870, section 4.5): linear, batch norm, ReLU, linear.

    Each side of the contrastive loss has its own. The original writes its linear layers as 1x1 convolutions. It is
    handed the masked frames of a batch, so batch norm is over those alone.
    """

    def __init__(self, in_size: int, hidden_size: int, out_size: int):
        super().__init__()
        self.up = nn.Linear(in_size, hidden_size, bias=False)
        self.norm = BatchNorm(hidden_size)
        self.down = nn.Linear(hidden_size, out_size)
        nn.init.xavier_normal_(self.up.weight)
        nn.init.xavier_normal_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_size) -> (..., out_size); every vector is a row of the batch norm."""
        rows = self.norm(self.up(x).flatten(0, -2))
        return self.down(F.relu(rows)).unflatten(0, x.shape[:-1])

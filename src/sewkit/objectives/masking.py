"""Span masks over frames and channels (wav2vec 2.0 section 3.1, SpecAugment in fine-tuning).

The statistics are those of fairseq's `compute_mask_indices` (static spans that may overlap) for one utterance: every
row of a batch gets what it would get alone, and rows are NOT made equal, which only the contrastive objective needs.
All draws come from the torch Generator handed in. B batch, T frames, H channels.
"""

import torch
from torch import Tensor
from torch.nn import functional

from sewkit.config import Masking
from sewkit.model.model import Masks


def span_masks(
    lengths: Tensor, size: int, prob: float, span: int, generator: torch.Generator, min_spans: int = 0
) -> Tensor:
    """(B,) lengths -> (B, size) bool, True on masked positions; never beyond a row's length.

    A row of length n gets int(prob * n / span + u) spans, u uniform on [0, 1), at least `min_spans`. Starts are drawn
    without replacement from [0, n - span), or from the first (number of spans + 1) positions where that is too narrow.
    Rows of fewer than three positions get none.
    """
    random = torch.rand(lengths.shape, generator=generator, dtype=torch.float64)
    num_spans = (prob * lengths / span + random).long().clamp(min=min_spans)
    num_spans = torch.where(lengths > 2, num_spans.minimum(lengths - 1), 0)
    num_places = torch.where(lengths - span > num_spans, lengths - span, num_spans + 1)
    covered = _distinct_starts(num_places, num_spans, size, generator).cumsum(dim=1)
    masked = covered > functional.pad(covered, (span, 0))[:, :size]  # a start within the last `span` positions
    return masked & (torch.arange(size) < lengths[:, None])


def _distinct_starts(num_places: Tensor, num_spans: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(B, size) bool with num_spans True a row among its first num_places: those with the smallest random keys."""
    keys = torch.rand(num_places.shape[0], size, generator=generator)
    keys = keys.masked_fill(torch.arange(size) >= num_places[:, None], 2.0)
    return keys.argsort(dim=1).argsort(dim=1) < num_spans[:, None]


def draw_masks(
    settings: Masking, frame_lengths: Tensor, num_frames: int, num_channels: int, generator: torch.Generator
) -> Masks:
    """Masks for a batch: at least two time spans an utterance as in fairseq, channels without a minimum."""
    time = channel = None
    if settings.time_prob > 0:
        time = span_masks(frame_lengths, num_frames, settings.time_prob, settings.time_length, generator, min_spans=2)
    if settings.channel_prob > 0:
        channels = torch.full_like(frame_lengths, num_channels)
        channel = span_masks(
            channels, num_channels, settings.channel_prob, settings.channel_length, generator, min_spans=0
        )
    return Masks(time=time, channel=channel)

"""Span masks over frames and channels (wav2vec 2.0 section 3.1, SpecAugment in fine-tuning).

The statistics of `span_masks` are those of fairseq's `compute_mask_indices` (static spans that may overlap) for one
utterance: every row of a batch gets what it would get alone. The contrastive loss then makes rows equal. All draws come
from the RowRandom handed in, nothing waits for the device. B batch, T frames, H channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sewkit.compute import resolve
from sewkit.config import Masking, ModelConfig
from sewkit.data.batch import Batch
from sewkit.lengths import min_samples, num_frames, valid_mask
from sewkit.model.model import Masks
from sewkit.objectives.random import RowRandom


def span_masks(lengths: Tensor, size: int, prob: float, span: int, random: RowRandom, min_spans: int = 0) -> Tensor:
    """(B,) lengths -> (B, size) bool, True on masked positions; never beyond a row's length.

    A row of length n gets int(prob * n / span + u) spans, u uniform on [0, 1), at least `min_spans`. Starts are drawn
    without replacement from [0, n - span), or from the first (number of spans + 1) positions where that is too narrow.
    Rows of fewer than three positions get none.

    Each row has a u of its own, as in fairseq today. The version that the models were trained with shared one u among
    the rows of a batch without padding, which after `equal_masks` leaves up to one frame in a hundred more.
    """
    num_spans = (prob * lengths / span + random.uniform()).long().clamp(min=min_spans)
    num_spans = torch.where(lengths > 2, num_spans.minimum(lengths - 1), 0)
    num_places = torch.where(lengths - span > num_spans, lengths - span, num_spans + 1)
    covered = _choose(valid_mask(num_places, size), num_spans, random).cumsum(dim=1)
    masked = covered > functional.pad(covered, (span, 0))[:, :size]  # a start within the last `span` positions
    return masked & valid_mask(lengths, size)


def equal_masks(masks: Tensor, random: RowRandom) -> Tensor:
    """(B, T) bool -> the same with single frames un-masked at random, until every row has as many as the poorest had.

    So fairseq's `require_same_masks`: the masked frames of a batch are then one (B, M, C) tensor. Rows that are equal
    already stay as they are.
    """
    fewest = masks.sum(dim=1).amin(dim=0, keepdim=True) if len(masks) else masks.sum(dim=1)
    return _choose(masks, fewest.expand(len(masks)), random)


def masked_positions(masks: Tensor, num_masked: int) -> Tensor:
    """(B, T) bool with `num_masked` True a row -> (B, num_masked) int64, where they are, in order."""
    return masks.long().argsort(dim=1, descending=True, stable=True)[:, :num_masked]


def _choose(among: Tensor, counts: Tensor, random: RowRandom) -> Tensor:
    """(B, size) bool, (B,) -> (B, size) bool: `counts` of each row's True, those with the smallest random keys."""
    keys = random.uniform(among.shape[1]).masked_fill(~among, 2.0)
    return keys.argsort(dim=1, stable=True).argsort(dim=1) < counts[:, None]


def draw_masks(
    settings: Masking, frame_lengths: Tensor, num_frames: int, num_channels: int, random: RowRandom
) -> Masks:
    """Masks for a batch: at least two time spans an utterance as in fairseq, channels without a minimum."""
    time = channel = None
    if settings.time_prob > 0:
        time = span_masks(frame_lengths, num_frames, settings.time_prob, settings.time_length, random, min_spans=2)
    if settings.channel_prob > 0:
        channels = torch.full_like(frame_lengths, num_channels)
        channel = span_masks(channels, num_channels, settings.channel_prob, settings.channel_length, random)
    return Masks(time=time, channel=channel)


def masks_of_batch(settings: Masking | None, config: ModelConfig, batch: Batch) -> Masks | None:
    """Masks for the frames that a model makes of a batch, drawn from the seeds of its rows; None for no masking."""
    if settings is None:
        return None
    frame_lengths = num_frames(batch.sample_lengths, config.conv_layers)
    shortest = min_samples(config.conv_layers, resolve(config, batch.compute).squeeze)
    size = num_frames(max(batch.waveforms.shape[1], shortest), config.conv_layers)
    return draw_masks(settings, frame_lengths, size, config.hidden_size, RowRandom(batch.seeds))

"""Every length rule and mask of the family, one named function each.

Lengths are counts of valid samples or frames at the start of a padded row. A rule works on an int and on an int64
tensor of shape (B,) alike. The letters of the package: B batch, S samples, T frames (50 Hz), U squeezed frames.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor

Length = TypeVar("Length", int, Tensor)


def _at_least_zero(length: Length) -> Length:
    return length.clamp(min=0) if isinstance(length, Tensor) else max(length, 0)


def conv_length(length: Length, kernel: int, stride: int) -> Length:
    """Frames that an un-padded convolution gives: floor((length - kernel) / stride) + 1, or none if it does not fit."""
    return _at_least_zero((length - kernel) // stride + 1)


def num_frames(num_samples: Length, conv_layers: Iterable[tuple[int, int, int]]) -> Length:
    """Frames of the feature extractor for `num_samples` samples: 49 for one second at 16 kHz."""
    for _, kernel, stride in conv_layers:
        num_samples = conv_length(num_samples, kernel, stride)
    return num_samples


def hop_samples(conv_layers: Iterable[tuple[int, int, int]]) -> int:
    """Samples from one frame to the next: the product of all strides, 320 in every published model."""
    hop = 1
    for _, _, stride in conv_layers:
        hop *= stride
    return hop


def receptive_field(conv_layers: Iterable[tuple[int, int, int]]) -> int:
    """Samples that one frame sees: 400 in every published model."""
    field, hop = 1, 1
    for _, kernel, stride in conv_layers:
        field += (kernel - 1) * hop
        hop *= stride
    return field


def min_samples(conv_layers: tuple[tuple[int, int, int], ...], squeeze_factor: int) -> int:
    """Fewest samples that give one squeezed frame; a shorter batch is padded to it so that no tensor is empty."""
    return receptive_field(conv_layers) + (squeeze_factor - 1) * hop_samples(conv_layers)


def squeezed_length(length: Length, factor: int) -> Length:
    """Squeezed frames, floor(length / factor): the last length mod factor frames get none of their own."""
    return length // factor


def informed_length(length: Length, factor: int) -> Length:
    """Frames after up-sampling that carry sound; those from here to `length` are SEW's zero tail."""
    return factor * squeezed_length(length, factor)


def pooled_length(length: Length, pool: int) -> Length:
    """Windows of `pool` frames, ceil(length / pool): no frame is lost, the last window may hold fewer."""
    return -(-length // pool)


def window_counts(lengths: Tensor, size: int, pool: int) -> Tensor:
    """(B,) lengths -> (B, ceil(size / pool)): how many valid frames each window of `pool` frames holds."""
    starts = pool * torch.arange(pooled_length(size, pool), device=lengths.device)
    return (lengths[:, None] - starts).clamp(0, pool)


def needed_frames(labels: Tensor, label_lengths: Tensor) -> Tensor:
    """(sum of lengths,) labels of rows end to end, (B,) -> (B,) fewest frames with which CTC can spell each row.

    Its labels, plus one blank between equal neighbours. A row with fewer frames has an infinite loss.
    """
    every = torch.arange(label_lengths.numel(), device=labels.device)
    rows = torch.repeat_interleave(every, label_lengths, output_size=len(labels))  # or it would wait for a GPU
    repeats = (labels[1:] == labels[:-1]) & (rows[1:] == rows[:-1])
    return label_lengths + torch.zeros_like(label_lengths).index_add_(0, rows[1:], repeats.long())


def valid_mask(lengths: Tensor, size: int) -> Tensor:
    """(B,) lengths -> (B, size) bool, True on valid positions."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def has_padding(lengths: Tensor, size: int) -> bool:
    """Whether a row of `size` ends before its size. On a GPU this waits for all that it was given to do before."""
    return bool((lengths < size).any())


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, H) with everything beyond each row's length set to 0; itself where nothing is."""
    if not has_padding(lengths, x.shape[1]):
        return x
    return x.masked_fill(~valid_mask(lengths, x.shape[1])[:, :, None], 0.0)


def key_mask(lengths: Tensor, size: int) -> Tensor | None:
    """(B, 1, 1, size) bool for attention, True on keys that may be attended to; None where there is no padding.

    A row without any valid frame attends to its first, zeroed one: softmax over nothing would be NaN. Its output is
    zeroed with the rest of the padding.
    """
    if not has_padding(lengths, size):
        return None
    return valid_mask(lengths.clamp(min=1), size)[:, None, None, :]

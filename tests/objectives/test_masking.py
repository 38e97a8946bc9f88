"""Span masks against fairseq's compute_mask_indices (statistics over many seeds, measured on the original)."""

import pytest
import torch
from torch.nn import functional

from sewkit.config import Masking
from sewkit.objectives.masking import draw_masks, equal_masks, masked_positions, span_masks
from sewkit.objectives.random import RowRandom

# (length, prob, span, minimum) -> (mean masked fraction, its standard error over thousands of seeds, mean span length)
ORIGINAL = [
    (50, 0.65, 10, 2, 0.508358, 0.00096669, 13.751),
    (100, 0.65, 10, 2, 0.497223, 0.00069292, 14.293),
    (250, 0.65, 10, 2, 0.492666, 0.00041560, 14.590),
    (781, 0.65, 10, 2, 0.490555, 0.00022936, 14.691),
    (15, 0.65, 10, 2, 0.79955, 0.0010624, 11.993),
    (11, 0.65, 10, 2, 0.970295, 0.00067418, 10.673),
    (768, 0.5, 64, 0, 0.403344, 0.00083448, 80.943),
    (512, 0.25, 64, 0, 0.233520, 0.00052953, 68.596),
]
# Batches made equal: (padded frames of each row, length) -> (fraction, its standard deviation over batches, mean span)
ORIGINAL_BATCHES = [
    ([0] * 8, 50, 0.37671, 0.0700, 3.502),
    ([0] * 8, 100, 0.403155, 0.0484, 4.340),
    ([0] * 8, 250, 0.434302, 0.0283, 5.774),
    ([0] * 8, 781, 0.457391, 0.0148, 7.766),
    ([0, 50, 120], 250, 0.257977, 0.0306, 3.147),
    ([0, 13, 60], 100, 0.203770, 0.0457, 2.460),
]
MARGINALS = {
    50: ([0.0800, 0.2338, 0.3602, 0.4680, 0.5647, 0.6138], [0.6220, 0.5754, 0.4759, 0.3662, 0.2359, 0.0850, 0.0]),
    250: ([0.0707, 0.1883, 0.2938, 0.3880, 0.4693, 0.5095], [0.5125, 0.4762, 0.3977, 0.3096, 0.1982, 0.0696, 0.0]),
}
"""Length -> probability that frames 0, 2, 4, 6, 8, 10 are masked, and the frames 11, 10, 8, 6, 4, 2, 1 from the end."""


def rows(count: int) -> RowRandom:
    return RowRandom(torch.arange(count))


def starts_of_spans(masks: torch.Tensor) -> torch.Tensor:
    return masks & ~functional.pad(masks, (1, 0))[:, :-1]


@pytest.mark.parametrize(("length", "prob", "span", "minimum", "fraction", "error", "span_length"), ORIGINAL)
def test_masks_have_the_statistics_of_fairseq(length, prob, span, minimum, fraction, error, span_length):
    masks = span_masks(torch.full((4000,), length), length, prob, span, rows(4000), minimum)
    # our mean over 4,000 rows has about the original's error; five of both together
    assert float(masks.float().mean()) == pytest.approx(fraction, abs=10 * error)
    assert float(masks.sum() / starts_of_spans(masks).sum()) == pytest.approx(span_length, rel=0.02)


@pytest.mark.parametrize("length", [50, 250])
def test_every_frame_is_masked_as_often_as_in_fairseq(length):
    """At both ends, where spans are cut off; 10,000 draws on either side, so 0.005 is one standard error each."""
    often = span_masks(torch.full((10_000,), length), length, 0.65, 10, rows(10_000), 2).float().mean(dim=0)
    first, last = MARGINALS[length]
    assert often[[0, 2, 4, 6, 8, 10]].tolist() == pytest.approx(first, abs=0.025)
    assert often[[-11, -10, -8, -6, -4, -2, -1]].tolist() == pytest.approx(last, abs=0.025)


class SharedRounding(RowRandom):
    """As in the version of fairseq that was measured: one rounding of the number of spans for a batch."""

    def uniform(self, *shape: int) -> torch.Tensor:
        drawn = super().uniform(*shape)
        return drawn if shape else drawn[:1].expand(len(drawn))


def equal_statistics(kind, padded, length, num_batches=600):
    """(mean fraction, mean span length) of batches made equal; every batch is checked to be."""
    lengths = torch.tensor([length - missing for missing in padded])
    fractions, spans = [], []
    for number in range(num_batches):
        random = kind(torch.arange(len(padded)) + number * len(padded))
        spanned = span_masks(lengths, length, 0.65, 10, random, 2)
        masks = equal_masks(spanned, random)
        assert (masks.sum(dim=1) == spanned.sum(dim=1).min()).all()
        assert not (masks & ~spanned).any()
        fractions.append(float(masks.float().mean()))
        spans.append(float(masks.sum() / starts_of_spans(masks).sum()))
    return sum(fractions) / num_batches, sum(spans) / num_batches


@pytest.mark.parametrize(("padded", "length", "fraction", "deviation", "span_length"), ORIGINAL_BATCHES)
def test_equal_masks_have_the_statistics_of_fairseq(padded, length, fraction, deviation, span_length):
    kind = RowRandom if any(padded) else SharedRounding
    found_fraction, found_span = equal_statistics(kind, padded, length)
    assert found_fraction == pytest.approx(fraction, abs=5 * deviation / 600**0.5)
    assert found_span == pytest.approx(span_length, rel=0.06)


@pytest.mark.parametrize(("length", "fraction"), [(50, 0.37671), (781, 0.457391)])
def test_a_rounding_for_each_row_masks_at_most_one_frame_in_a_hundred_less(length, fraction):
    found, _ = equal_statistics(RowRandom, [0] * 8, length)
    assert fraction - 0.015 < found < fraction + 0.002


def test_masks_stay_within_each_row_and_tiny_rows_get_none():
    lengths = torch.tensor([0, 1, 2, 3, 7, 40, 100])
    for seed in range(50):
        masks = span_masks(lengths, 100, 0.65, 10, RowRandom(torch.arange(7) + 7 * seed), 2)
        assert not (masks & (torch.arange(100) >= lengths[:, None])).any()
        assert not masks[:3].any()
        assert (masks[3:].sum(dim=1) >= 2).all()


def test_a_rows_mask_does_not_depend_on_what_shares_its_batch():
    seeds, lengths = torch.tensor([4, 9, 2]), torch.tensor([80, 60, 100])
    together = span_masks(lengths, 100, 0.65, 10, RowRandom(seeds), 2)
    alone = span_masks(lengths[1:2], 60, 0.65, 10, RowRandom(seeds[1:2]), 2)
    assert torch.equal(together[1, :60], alone[0])


def test_equal_masks_leaves_equal_rows_alone_and_takes_no_rows():
    masks = torch.tensor([[True, False, True], [False, True, True]])
    assert torch.equal(equal_masks(masks, rows(2)), masks)
    assert equal_masks(masks[:0], rows(0)).shape == (0, 3)


def test_unmasked_frames_are_chosen_evenly():
    masks = torch.tensor([[True] * 6, [True, True, False, False, False, False]])
    kept = sum(equal_masks(masks, RowRandom(torch.tensor([seed, 0])))[0].float() for seed in range(3_000))
    assert kept.tolist() == pytest.approx([1_000] * 6, abs=130)  # five standard deviations


def test_positions_are_where_the_mask_is_in_order():
    masks = torch.tensor([[False, True, True, False], [True, False, False, True]])
    assert masked_positions(masks, 2).tolist() == [[1, 2], [0, 3]]


def test_masks_are_a_function_of_the_seeds():
    settings = Masking(time_prob=0.3, time_length=5, channel_prob=0.2, channel_length=8)
    drawn = [draw_masks(settings, torch.tensor([50, 30]), 50, 32, RowRandom(torch.tensor([s, 8]))) for s in (3, 3, 4)]
    assert torch.equal(drawn[0].time, drawn[1].time)
    assert torch.equal(drawn[0].channel, drawn[1].channel)
    assert not torch.equal(drawn[0].time[0], drawn[2].time[0])
    assert torch.equal(drawn[0].time[1], drawn[2].time[1])


def test_no_probability_means_no_mask():
    masks = draw_masks(Masking(time_prob=0.0, channel_prob=0.0), torch.tensor([50]), 50, 32, rows(1))
    assert masks.time is None
    assert masks.channel is None

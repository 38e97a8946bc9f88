"""Span masks against fairseq's compute_mask_indices (statistics over many seeds, measured on the original)."""

import pytest
import torch

from sewkit.config import Masking
from sewkit.objectives.masking import draw_masks, span_masks

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


@pytest.mark.parametrize(("length", "prob", "span", "minimum", "fraction", "error", "span_length"), ORIGINAL)
def test_masks_have_the_statistics_of_fairseq(length, prob, span, minimum, fraction, error, span_length):
    rows = 4000
    masks = span_masks(torch.full((rows,), length), length, prob, span, torch.Generator().manual_seed(0), minimum)
    # our mean over 4,000 rows has about the original's error; five of both together
    assert float(masks.float().mean()) == pytest.approx(fraction, abs=10 * error)
    starts = masks & ~torch.nn.functional.pad(masks, (1, 0))[:, :-1]
    assert float(masks.sum() / starts.sum()) == pytest.approx(span_length, rel=0.02)


def test_masks_stay_within_each_row_and_tiny_rows_get_none():
    lengths = torch.tensor([0, 1, 2, 3, 7, 40, 100])
    for seed in range(50):
        masks = span_masks(lengths, 100, 0.65, 10, torch.Generator().manual_seed(seed), 2)
        assert not (masks & (torch.arange(100) >= lengths[:, None])).any()
        assert not masks[:3].any()
        assert masks[3:].any(dim=1).all()


def test_masks_are_a_function_of_the_generator():
    settings = Masking(time_prob=0.3, time_length=5, channel_prob=0.2, channel_length=8)
    drawn = [
        draw_masks(settings, torch.tensor([50, 30]), 50, 32, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    ]
    assert torch.equal(drawn[0].time, drawn[1].time)
    assert torch.equal(drawn[0].channel, drawn[1].channel)
    assert not torch.equal(drawn[0].time, drawn[2].time)


def test_no_probability_means_no_mask():
    settings = Masking(time_prob=0.0, channel_prob=0.0)
    masks = draw_masks(settings, torch.tensor([50]), 50, 32, torch.Generator())
    assert masks.time is None
    assert masks.channel is None

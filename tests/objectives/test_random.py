"""RowRandom: numbers of a row are a function of its seed and the order of the calls, and look random.

Chi-square values are of fixed seeds; their bounds are five standard deviations from the mean (degrees of freedom).
"""

import math

import pytest
import torch

from sewkit.objectives.random import _STEP, RowRandom, _mix

SEEDS = torch.arange(64)
"""Neighbouring numbers: what a weak hash would let through."""


def chi_square(counts: torch.Tensor) -> float:
    """In standard deviations from its mean, for counts that are equally likely."""
    expected, freedom = counts.sum() / counts.numel(), counts.numel() - 1
    return float(((counts - expected).square() / expected).sum() - freedom) / math.sqrt(2 * freedom)


def test_the_hash_is_splitmix64():
    outputs = _mix(1234567 + _STEP * torch.arange(1, 4)).tolist()
    assert [value % 2**64 for value in outputs] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_are_uniform_over_bins_rows_and_calls():
    random = RowRandom(SEEDS)
    for _ in range(3):
        x = random.uniform(2_000)
        assert x.dtype == torch.float32
        assert 0 <= float(x.min()) < 1e-4
        assert 1 - 1e-4 < float(x.max()) < 1
        assert abs(chi_square((x * 100).long().flatten().bincount(minlength=100).double())) < 5
        assert abs(chi_square(((x[:, 0] * 8).long()).bincount(minlength=8).double())) < 5  # first numbers of all rows


def test_rows_calls_and_neighbours_are_independent():
    """Pairs fall evenly into a 16 x 16 grid."""
    random = RowRandom(SEEDS)
    one, two = random.uniform(3_000), random.uniform(3_000)
    for a, b in ((one, two), (one[1:], one[:-1]), (one[:, 1:], one[:, :-1]), (one[1:], two[:-1])):
        cells = (a * 16).long() * 16 + (b * 16).long()
        assert abs(chi_square(cells.flatten().bincount(minlength=256).double())) < 5


def test_a_row_depends_on_its_seed_and_the_order_of_the_calls_only():
    together, alone = RowRandom(torch.tensor([5, -3, 2**62])), RowRandom(torch.tensor([-3]))
    for shape in ((7,), (2, 3), (), (4, 1, 2)):
        assert torch.equal(together.uniform(*shape)[1:2], alone.uniform(*shape))
    assert not torch.equal(alone.uniform(7), alone.uniform(7))


def test_the_first_numbers_do_not_depend_on_how_many_are_drawn():
    few, many = RowRandom(SEEDS).uniform(5, 4), RowRandom(SEEDS).uniform(9, 4)
    assert torch.equal(few, many[:, :5])


@pytest.mark.parametrize("high", [1, 2, 7, 1_000])
def test_integers_are_uniform_below_their_bound(high):
    counts = RowRandom(SEEDS).integers(high, 3_000).flatten().bincount(minlength=high)
    assert counts.numel() == high
    if high > 1:
        assert abs(chi_square(counts.double())) < 5


def test_each_row_can_have_its_own_bound():
    high = torch.arange(1, 65)
    drawn = RowRandom(SEEDS).integers(high, 50, 40)
    assert drawn.shape == (64, 50, 40)
    assert torch.equal(drawn.flatten(1).amax(dim=1), high - 1)  # 2,000 draws reach every top
    assert int(drawn.min()) == 0


def test_gumbel_noise_has_its_mean_and_variance():
    noise = RowRandom(SEEDS).gumbel(5_000)
    assert noise.isfinite().all()
    # 320,000 draws: standard errors 0.0023 and, of the variance, 0.006
    assert float(noise.mean()) == pytest.approx(0.57722, abs=0.01)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_no_rows_give_no_numbers():
    assert RowRandom(torch.zeros(0, dtype=torch.int64)).gumbel(0, 3).shape == (0, 0, 3)

"""Random numbers that belong to a row: a function of its seed and the order of the calls, of nothing else.

What masks, negatives and code words an utterance gets must not depend on what shares its batch, on the device, or on
how many processes train. A generator with a state cannot give that, a hash of (seed, call, number) can: here SplitMix64
(Steele, Lea and Flood 2014), whose output for a counter is a few multiplications, for all numbers at once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
"""SplitMix64's constants as signed numbers: torch's int64 wraps around, which is what the hash wants."""


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """As if int64 had no sign: zeros come in from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's output function on int64 of any shape: every bit of the result depends on every bit of `x`."""
    x = (x ^ _shift_right(x, 30)) * _FACTORS[0]
    x = (x ^ _shift_right(x, 27)) * _FACTORS[1]
    return x ^ _shift_right(x, 31)


class RowRandom:
    """A source of random numbers for each of B rows. Every call takes the next stream of each row.

    seeds: (B,) int64, any numbers; results are on their device.
    """

    def __init__(self, seeds: Tensor):
        self.seeds = seeds
        self.calls = 0

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1), multiples of 2^-24."""
        return _shift_right(self._bits(shape), 40).float() * 2.0**-24

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high), `high` one number from 1 to 2^31 or one a row, (B,).

        No number is more likely than another by more than high / 2^32 of itself.
        """
        if isinstance(high, Tensor):
            high = high.view(-1, *[1] * len(shape))
        return (_shift_right(self._bits(shape), 32) * high) >> 32

    def gumbel(self, *shape: int) -> Tensor:
        """(B, *shape) float32 from the standard Gumbel distribution."""
        return -(-self.uniform(*shape).clamp(min=2.0**-25).log()).log()

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) int64, all 64 bits random. The first n numbers of a row are the same whatever the shape."""
        self.calls += 1
        keys = _mix(_mix(self.seeds) + self.calls)
        counters = torch.arange(1, math.prod(shape) + 1, device=self.seeds.device) * _STEP
        return _mix(keys[:, None] + counters).view(len(keys), *shape)

"""Products with constant matrices: weights laid out once in the order that the processor reads them, GELU within.

On a CPU that is what oneDNN does for torch.compile, called directly: nothing is compiled, and any number of rows is
taken. Everywhere else it is the plain product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.processor import multiplies

PACKED_FROM = 20_000
"""Entries of a matrix from which on packing pays: oneDNN makes code for each new number of rows, which takes half a
millisecond."""


class Product(nn.Module):
    """(..., K) -> (..., N): x W^T + b, then GELU if it is asked for."""

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False):
        super().__init__()
        self.gelu = gelu
        self.bias = bias
        self.weight = self.packed = None
        if weight.numel() >= PACKED_FROM and can_pack(weight):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        else:
            self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Rows of `x` may overlap in memory."""
        if self.packed is not None:
            activation = ("gelu", "none") if self.gelu else ("none", "")
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, activation[0], [], activation[1])
        assert self.weight is not None
        y = F.linear(x, self.weight, self.bias)
        return torch.ops.aten.gelu_(y) if self.gelu else y


def product(linear: nn.Linear, gelu: bool = False) -> Product:
    """Of a layer's weights."""
    return Product(linear.weight, linear.bias, gelu)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN takes products with it here."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return weight.dtype in (torch.float32, torch.bfloat16) and multiplies(weight.dtype, weight.device)

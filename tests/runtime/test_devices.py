"""What runs on a GPU, on a device that computes shapes only: every operation finds all its tensors there.

"meta" tensors have no numbers. So whatever takes the way of other devices than a CPU, reads a number from the device in
between, or mixes its tensors with the CPU's, shows without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sewkit import lengths
from sewkit.compute import operating_points
from sewkit.model import SpeechModel, build_model, pooling
from sewkit.runtime.folding import prepare
from sewkit.testing import STOCHASTIC_TOYS, TOYS

ALL = {**TOYS, **STOCHASTIC_TOYS}
LENGTHS = (16_000, 9_871, 1_040)


HANDED_OVER = "aten._to_copy.default"
"""All that may cross: SEW-D's rows of the position table, at most twice for each way that layers pool."""


class Crossings(TorchDispatchMode):
    """Operations between devices; numbers without a shape may come from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor) and leaf.dim())
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.names.append(str(function))
        return result


@pytest.fixture(autouse=True)
def _inference(monkeypatch: pytest.MonkeyPatch):
    for module in (lengths, pooling):
        monkeypatch.setattr(module, "has_padding", lambda *_: True)  # the one question that the device is asked
    with torch.no_grad():
        yield


def _on_device(name: str, dtype: torch.dtype) -> SpeechModel:
    with torch.device("meta"):
        return prepare(build_model(ALL[name]).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_batch_stays_on_its_device(name: str, dtype: torch.dtype) -> None:
    model = _on_device(name, dtype)
    batch = torch.zeros(3, LENGTHS[0], device="meta"), torch.zeros(3, dtype=torch.int64, device="meta")
    for point in operating_points(model.config):
        with Crossings() as crossings:
            logits, frames = model(*batch, point)
        assert logits.shape == (3, lengths.num_frames(LENGTHS[0], model.config.conv_layers), 32)
        assert (logits.device.type, frames.device.type) == ("meta", "meta")
        pairs = set(point.pools(model.config.num_layers)) if model.config.family == "sew-d" else ()
        assert crossings.names == [HANDED_OVER] * len(crossings.names)
        assert len(crossings.names) <= 2 * len(pairs)


@pytest.mark.parametrize("name", ["sew", "sew-d"])
def test_a_batch_of_clips_to_classify_stays_on_its_device(name: str) -> None:
    config = ALL[name].replace(vocab_size=None, num_labels=3, weighted_layer_sum=True)
    with torch.device("meta"):
        model = prepare(build_model(config))
    with Crossings() as crossings:
        scores, _ = model(torch.zeros(3, LENGTHS[0], device="meta"), torch.zeros(3, dtype=torch.int64, device="meta"))
    assert scores.shape == (3, 3)
    assert crossings.names == [HANDED_OVER] * (2 if name == "sew-d" else 0)

"""What runs on a GPU, on a device that computes shapes only: each operation finds all its tensors there.

"meta" tensors have no numbers. So whatever takes the way of other devices than a CPU, reads a number from the device in
between, or mixes its tensors with the CPU's, shows without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sewkit import lengths
from sewkit.compute import operating_points
from sewkit.data.batch import Batch
from sewkit.model import SpeechModel, build_model, pooling
from sewkit.objectives.classification import Classify
from sewkit.objectives.contrastive import Contrastive, ContrastiveSettings
from sewkit.objectives.ctc import CTC
from sewkit.objectives.loss import Objective
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


@pytest.mark.parametrize("kind", ["contrastive", "ctc", "classify"])
@pytest.mark.parametrize("name", ["w2v2", "sew", "sew-d", "stochastic-sew-d"])
def test_a_step_of_training_stays_on_its_device(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What "meta" lacks is stood in for: numbers that become shapes, mixed precision, the kernel of CTC."""
    monkeypatch.setattr(Tensor, "__int__", lambda self: 6 * len(LENGTHS))
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(F, "ctc_loss", lambda scores, *_, **__: scores.sum())
    config = ALL[name]
    with torch.device("meta"):
        if kind == "contrastive":
            objective: Objective = Contrastive(build_model(config.replace(vocab_size=None)), ContrastiveSettings())
        elif kind == "ctc":
            objective = CTC(build_model(config), masking=config.masking)
        else:
            objective = Classify(build_model(config.replace(vocab_size=None, num_labels=3)))
        rows = torch.zeros(len(LENGTHS), dtype=torch.int64)
        batch = Batch(
            waveforms=torch.zeros(len(LENGTHS), LENGTHS[0]),
            sample_lengths=rows,
            labels=torch.zeros(6 * len(LENGTHS), dtype=torch.int64),
            label_lengths=rows,
            texts=["a"] * len(LENGTHS),
            seeds=rows,
            classes=rows,
        )
    with torch.enable_grad(), Crossings() as crossings:
        objective.train()(batch, 3).total.backward()
    assert crossings.names == []
    assert all(parameter.grad is None or parameter.grad.is_meta for parameter in objective.parameters())

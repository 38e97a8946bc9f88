"""Models whose weights do not matter: to be filled from a file, or to be asked for their shape.

The meta device would do for both, but its first use imports eight hundred modules: seconds, and 80 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sewkit.config import ModelConfig
from sewkit.model.model import SpeechModel, build_model


def build_empty(config: ModelConfig) -> SpeechModel:
    """A model to be filled: its weights are what the memory held, drawing them would take seconds."""
    with _WithoutRandomWeights():
        return build_model(config)


def build_shape(config: ModelConfig) -> SpeechModel:
    """A model in evaluation mode that has names and shapes only: each of its weights is one zero, seen many times.

    To run it raises RuntimeError.
    """
    model = build_empty(config)
    for weight in (*model.parameters(), *model.buffers()):
        weight.data = weight.new_zeros(()).expand(weight.shape)
    for part in (model.features, model.encoder):
        part.register_forward_pre_hook(_refuse)
    return model.eval()


def _refuse(module: nn.Module, inputs: Any) -> None:
    raise RuntimeError("this model has names and shapes only; sewkit.checkpoint.load_model gives one with its weights")


class _WithoutRandomWeights(TorchFunctionMode):
    """Leaves new weights as the memory is."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return (torch.empty if func in (torch.randn, torch.rand) else func)(*args, **kwargs)

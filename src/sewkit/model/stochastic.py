"""Stochastic models (arXiv 2204.11934): one set of weights for many operating points.

All points share everything but the up-sampling, of which each squeeze factor has its own. So a fixed model becomes
stochastic by adding what up-samples the other factors, and one point of a stochastic model is a fixed model again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sewkit.compute import Compute, resolve
from sewkit.config import ModelConfig, Stochastic
from sewkit.errors import UserError
from sewkit.model.model import SpeechModel, build_model
from sewkit.model.upsample import Upsample, Upsamples


def make_stochastic(model: SpeechModel, sets: Stochastic | None = None) -> SpeechModel:
    """A stochastic model, in evaluation mode, from a fixed SEW, SEW-D or wav2vec 2.0, whose weights are copied.

    At the squeeze factor of `model` without pooling it computes what `model` does. Elsewhere it is a start for
    training: up-sampling for another factor is that of `model`, whose sub-frames are interpolated in time. wav2vec 2.0
    has none to interpolate: there every sub-frame begins as GELU of its squeezed frame.

    Raises UserError where `sets` lacks the factor or the pools of `model`, or `model` is stochastic already.
    """
    sets = sets or Stochastic()
    config = model.config
    if config.is_stochastic:
        raise UserError("the model is stochastic already: make a fixed model stochastic, or train this one as it is")
    lacking = [
        f"{name} {getattr(sets, name)} without {getattr(config, name)[0]}, which the model was trained with"
        for name in ("squeeze_factors", "query_pools", "kv_pools")
        if getattr(config, name)[0] not in getattr(sets, name)
    ]
    if lacking:
        raise UserError(f"stochastic: {'; '.join(lacking)}")
    made = _rebuilt(model, config.replace(**{name: getattr(sets, name) for name in type(sets).model_fields}))
    own = ways_up(model).get(config.squeeze_factor)
    for factor, layer in ways_up(made).items():
        weights = _identity(config.hidden_size) if own is None else own.linear.state_dict()
        resampled = {name: _resampled(value, config.squeeze_factor, factor) for name, value in weights.items()}
        layer.linear.load_state_dict(resampled)
    return made


def specialise(model: SpeechModel, compute: Compute | str | None) -> SpeechModel:
    """The fixed model that computes what a stochastic one does at one point, in evaluation mode; weights are copied.

    Without pooling it is a plain SEW or SEW-D (at factor 1 and begun as wav2vec 2.0: wav2vec 2.0), unless a SEW-D
    counts positions in a unit of another length than its squeezed frame.
    Raises UserError if the model has no such point.
    """
    made = _rebuilt(model, specialised(model.config, compute))
    for factor, layer in ways_up(made).items():
        layer.load_state_dict(ways_up(model)[factor].state_dict())
    return made


def specialised(config: ModelConfig, compute: Compute | str | None) -> ModelConfig:
    """The shape of the model that `specialise` gives."""
    compute = resolve(config, compute)
    return config.replace(
        family="sew" if config.family == "wav2vec2" and compute.squeeze > 1 else config.family,
        squeeze_factors=(compute.squeeze,),
        query_pools=(compute.query_pool,),
        kv_pools=(compute.kv_pool,),
        position_unit=None if config.position_unit == compute.squeeze else config.position_unit,
    )


def ways_up(model: SpeechModel) -> dict[int, Upsample]:
    """A model's up-sampling by squeeze factor; wav2vec 2.0 and what began as it have none for 1."""
    if isinstance(model.upsample, Upsamples):
        return {int(digits): layer for digits, layer in model.upsample.items() if isinstance(layer, Upsample)}
    return {} if model.upsample is None else {model.upsample.factor: model.upsample}


def _rebuilt(model: SpeechModel, config: ModelConfig) -> SpeechModel:
    """A model of `config` with copies of all weights but the up-sampling, which is new."""
    made = build_model(config).to(model.mask_embedding.device)
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("upsample.")}
    made.load_state_dict({**made.state_dict(), **shared})
    return made.eval()


def _identity(hidden_size: int) -> dict[str, Tensor]:
    return {"weight": torch.eye(hidden_size), "bias": torch.zeros(hidden_size)}


def _resampled(parameter: Tensor, factor: int, new_factor: int) -> Tensor:
    """(factor * H, ...) rows of sub-frames -> (new_factor * H, ...), linear in time between sub-frames' centres."""
    if new_factor == factor:
        return parameter
    blocks = parameter.unflatten(0, (factor, -1)).movedim(0, -1)
    flat = blocks.reshape(1, -1, factor)
    resampled = F.interpolate(flat, size=new_factor, mode="linear", align_corners=False)
    return resampled.reshape(*blocks.shape[:-1], new_factor).movedim(-1, 0).flatten(0, 1)

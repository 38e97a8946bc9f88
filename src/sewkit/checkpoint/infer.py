"""What the tensors of an original checkpoint tell about its architecture, where the file itself does not say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sewkit.checkpoint.errors import CheckpointError
from sewkit.config import ModelConfig


def infer(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """Fields of ModelConfig that shapes tell; "conv_widths_and_kernels" are its conv_layers without strides."""
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    try:
        return _infer(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: not a wav2vec 2.0, SEW or SEW-D model: no usable tensor {error} among {len(shapes)}"
        ) from error


def _infer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    squeezed = "encoder.upsample.0.weight" in shapes
    disentangled = "encoder.encoder.rel_embeddings.weight" in shapes
    layer = "encoder.encoder.layer.{}." if disentangled else "encoder.layers.{}."
    up = (layer + ("intermediate.dense.weight" if disentangled else "fc1.weight")).format
    conv = "feature_extractor.conv_layers.{}.0.weight".format
    hidden, per_group, kernel = shapes["encoder.pos_conv.0.weight_v"]
    found: dict[str, Any] = {
        "family": "sew-d" if disentangled else "sew" if squeezed else "wav2vec2",
        "hidden_size": hidden,
        "num_layers": _count(shapes, up),
        "ffn_size": shapes[up(0)][0],
        "conv_widths_and_kernels": tuple((shapes[conv(i)][0], shapes[conv(i)][2]) for i in range(_count(shapes, conv))),
        "conv_bias": "feature_extractor.conv_layers.0.0.bias" in shapes,
        "extractor_norm": "layer" if "feature_extractor.conv_layers.0.2.1.weight" in shapes else "group",
        "project_features": "post_extract_proj.weight" in shapes,
        "pos_conv_kernel": kernel,
        "pos_conv_groups": hidden // per_group,
        "squeeze_factor": shapes["encoder.upsample.0.weight"][0] // hidden if squeezed else 1,
    }
    if disentangled:
        found["position_buckets"] = shapes["encoder.encoder.rel_embeddings.weight"][0] // 2
    return found


def _count(shapes: Mapping[str, Any], name: Any) -> int:
    count = 0
    while name(count) in shapes:
        count += 1
    return count


def contradictions(config: ModelConfig, known: Mapping[str, Any]) -> list[str]:
    """In words, what an architecture says otherwise than what `infer` found."""
    layers = tuple((width, kernel) for width, kernel, _ in config.conv_layers)
    stated = {field: layers if field == "conv_widths_and_kernels" else getattr(config, field) for field in known}
    return [
        f"{field} {stated[field]} but the tensors have {found}"
        for field, found in known.items()
        if stated[field] != found
    ]

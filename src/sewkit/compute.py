"""Operating points: how much a model computes, and what it costs.

A `Compute` is one point. Models of one squeeze factor have a single one; stochastic models (arXiv 2204.11934) will
have a grid of them. Costs are counted from the shapes, in multiply-accumulates (MACs).
"""

from __future__ import annotations

from dataclasses import dataclass

from sewkit import lengths
from sewkit.config import ModelConfig


@dataclass(frozen=True)
class Compute:
    """An operating point: 50 Hz frames are squeezed by `squeeze`; queries and keys pooled by their pools."""

    squeeze: int = 1
    query_pool: int = 1
    kv_pool: int = 1

    def __str__(self) -> str:
        pools = [
            f"{name}={value}"
            for name, value in (("query_pool", self.query_pool), ("kv_pool", self.kv_pool))
            if value > 1
        ]
        return ",".join([f"squeeze={self.squeeze}", *pools])


def operating_points(config: ModelConfig) -> tuple[Compute, ...]:
    """The points a model can run at, cheapest first: for one squeeze factor a single one."""
    return (Compute(squeeze=config.squeeze_factor),)


def resolve(config: ModelConfig, compute: Compute | None) -> Compute:
    """The operating point to run at: the one asked for, or the dearest.

    Raises ValueError, naming the points there are, if the model has no such point.
    """
    points = operating_points(config)
    if compute is None:
        return points[-1]
    if compute not in points:
        raise ValueError(f"this model does not run at {compute}; it runs at: {'; '.join(map(str, points))}")
    return compute


def macs(config: ModelConfig, num_samples: int) -> dict[str, int]:
    """Multiply-accumulates by stage for one utterance of `num_samples` samples, softmax and norms not counted."""
    frames = lengths.num_frames(num_samples, config.conv_layers)
    squeezed = lengths.squeezed_length(frames, config.squeeze_factor)
    hidden, ffn = config.hidden_size, config.ffn_size
    group_size = hidden // config.pos_conv_groups
    attended = 2 * squeezed * squeezed * hidden
    if config.family == "sew-d":
        # Both position terms multiply every frame with the rows of the table that the clip can reach.
        rows = min(2 * config.position_buckets, max(2 * squeezed - 1, 0))
        attended += 2 * squeezed * rows * hidden + 2 * rows * hidden * hidden
    stages = {
        "features": _extractor_macs(config, num_samples),
        "projection": frames * config.feature_size * hidden if config.project_features else 0,
        "squeeze": squeezed * hidden * group_size * config.pos_conv_kernel,
        "encoder: attention": config.num_layers * (4 * squeezed * hidden * hidden + attended),
        "encoder: feed-forward": config.num_layers * 2 * squeezed * hidden * ffn,
        "upsample": squeezed * hidden * hidden * config.squeeze_factor if config.family != "wav2vec2" else 0,
        "head": frames * hidden * (config.vocab_size or 0),
    }
    return {stage: cost for stage, cost in stages.items() if cost}


def _extractor_macs(config: ModelConfig, num_samples: int) -> int:
    total, channels, length = 0, 1, num_samples
    for width, kernel, stride in config.conv_layers:
        length = lengths.conv_length(length, kernel, stride)
        total += length * channels * width * kernel
        channels = width
    return total

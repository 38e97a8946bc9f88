"""Operating points: how much a model computes, and what it costs.

A `Compute` is one point. A fixed model has a single one; a stochastic model (arXiv 2204.11934) has a grid of them,
every squeeze factor with every query and key-value pool, and is told at each call at which to run. Costs are counted
from the shapes, in multiply-accumulates (MACs).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import product

import numpy as np

from sewkit import lengths
from sewkit.config import ModelConfig, Pool
from sewkit.errors import UserError

REFERENCE_SAMPLES = 160_000
"""The clip by whose cost operating points are put in order: ten seconds at 16 kHz."""
NAMES = FULL, BALANCED, FAST = ("full", "balanced", "fast")
"""Operating points by name; which they are follows from a model's measured curve, or without one from its MACs."""
_LOG = logging.getLogger(__name__)
_DRAW = 0x5E3
"""Tells the draws of operating points from others that are made of the same numbers."""


@dataclass(frozen=True)
class Compute:
    """An operating point: 50 Hz frames are squeezed by `squeeze`, then queries and keys pooled inside each layer.

    A pool is a number for all layers, or a tuple with a number for each. Written, it is `squeeze=4,kv_pool=2` or
    `squeeze=2,query_pool=1/1/2/2`; pools of 1 are left out. Raises UserError for anything below 1.
    """

    squeeze: int = 1
    query_pool: Pool = 1
    kv_pool: Pool = 1

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            numbers = value if isinstance(value, tuple) and item.name != "squeeze" else (value,)
            if not numbers or not all(isinstance(number, int) and number >= 1 for number in numbers):
                raise UserError(f"{item.name} is {value!r}; expected a whole number of at least 1")

    @classmethod
    def parse(cls, text: str, default: Compute | None = None) -> Compute:
        """The point that `text` names; what it does not say is as in `default`. The inverse of `str`.

        Raises UserError for what is not of the form `squeeze=4,kv_pool=2`.
        """
        default = default or cls()
        values = {item.name: getattr(default, item.name) for item in fields(cls)}
        found: dict[str, Pool] = {}
        for part in text.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            numbers = value.split("/")
            wrong = name not in values or name in found or (name == "squeeze" and len(numbers) > 1)
            if wrong or not all(number.isascii() and number.isdigit() for number in numbers):
                raise UserError(
                    f"operating point {text!r}: expected some of squeeze, query_pool and kv_pool with whole numbers, "
                    "such as squeeze=4,kv_pool=2, or kv_pool=1/1/2/2 for a number a layer"
                )
            found[name] = int(value) if len(numbers) == 1 else tuple(map(int, numbers))
        return cls(**{**values, **found})

    def __str__(self) -> str:
        pools = (("query_pool", self.query_pool), ("kv_pool", self.kv_pool))
        said = [f"{name}={_written(pool)}" for name, pool in pools if pool != 1]
        return ",".join([f"squeeze={self.squeeze}", *said])

    def pools(self, num_layers: int) -> list[tuple[int, int]]:
        """(query pool, key-value pool) of each layer."""
        query, kv = (
            pool if isinstance(pool, tuple) else (pool,) * num_layers for pool in (self.query_pool, self.kv_pool)
        )
        return list(zip(query, kv, strict=True))

    @property
    def is_pooled(self) -> bool:
        """Whether any layer pools."""
        return self.query_pool != 1 or self.kv_pool != 1


def _written(pool: Pool) -> str:
    return "/".join(map(str, pool)) if isinstance(pool, tuple) else str(pool)


@dataclass(frozen=True)
class Refinement:
    """What a second pass hears again, see `sewkit.refine`.

    threshold: stretches whose doubt reaches it; 0 for everything, 1 for nothing. compute: operating point of the
    second pass, by value or name. margin: seconds of sound on either side of a stretch, in whole steps of the model's
    grid (0.48 s in most). Raises UserError for values out of range.
    """

    threshold: float
    compute: Compute | str = FULL
    margin: float = 0.96

    def __post_init__(self) -> None:
        if not (0 <= self.threshold <= 1 and 0 <= self.margin <= 10):
            raise UserError(f"{self}; expected a threshold from 0 to 1 and a margin from 0 to 10 seconds")


@lru_cache(maxsize=64)
def operating_points(config: ModelConfig) -> tuple[Compute, ...]:
    """The points of a model's grid, cheapest first."""
    grid = product(config.squeeze_factors, config.query_pools, config.kv_pools)
    return tuple(sorted((Compute(*point) for point in grid), key=lambda point: _total(config, point)))


def _total(config: ModelConfig, compute: Compute) -> int:
    return sum(macs(config, REFERENCE_SAMPLES, compute).values())


@lru_cache(maxsize=64)
def names_by_macs(config: ModelConfig) -> dict[str, Compute]:
    """What `NAMES` stand for in a model that was not measured: the dearest, the one between, and the cheapest.

    Between is the point whose MACs are closest to the geometric mean of the others'.
    """
    points = operating_points(config)
    cheapest, dearest = _total(config, points[0]), _total(config, points[-1])
    between = min(points, key=lambda point: abs(math.log(_total(config, point) ** 2 / (cheapest * dearest))))
    return dict(zip(NAMES, (points[-1], between, points[0]), strict=True))


@lru_cache(maxsize=64)
def _say_by_macs(point: Compute) -> None:
    """Once, not at every call."""
    _LOG.warning("balanced is %s, chosen by MACs: this model has no measured curve, see sewkit sweep --store", point)


def resolve(config: ModelConfig, request: Compute | str | None, names: Mapping[str, Compute] | None = None) -> Compute:
    """The operating point to run at: that asked for, by value, by name or as text for `Compute.parse`; or the dearest.

    Pools layer by layer may mix those that the model has for all layers. names: what the names stand for, see
    `Curve.names`; without them it is decided by MACs, which the log says where `balanced` is asked for. Raises
    UserError, naming what there is, if the model has no such point.
    """
    points = operating_points(config)
    if request is None:
        return points[-1]
    if isinstance(request, str) and "=" not in request:
        return _named(config, request.strip(), names)
    compute = Compute.parse(request, points[-1]) if isinstance(request, str) else request
    if compute in points:
        return compute
    allowed = (
        compute.squeeze in config.squeeze_factors
        and _has(config.query_pools, compute.query_pool, config.num_layers)
        and _has(config.kv_pools, compute.kv_pool, config.num_layers)
    )
    if not allowed:
        raise UserError(f"this model does not run at {compute}; it runs at: {describe_points(config)}")
    return compute


def _named(config: ModelConfig, name: str, names: Mapping[str, Compute] | None) -> Compute:
    if name not in NAMES:
        raise UserError(
            f"operating point {name!r}: expected {', '.join(NAMES)}, or numbers such as squeeze=4,kv_pool=2; "
            f"this model runs at: {describe_points(config)}"
        )
    if names is None:
        names = names_by_macs(config)
        if name == BALANCED and config.is_stochastic:
            _say_by_macs(names[name])
    return names[name]


def _has(pools: tuple[Pool, ...], pool: Pool, num_layers: int) -> bool:
    return pool in pools or (isinstance(pool, tuple) and len(pool) == num_layers and set(pool) <= set(pools))


def describe_points(config: ModelConfig) -> str:
    """A model's points on one line: `squeeze=2`, or `squeeze 1, 2, 3, 4; query_pool 1, 2; kv_pool 1, 2`."""
    if not config.is_stochastic:
        return f"{operating_points(config)[0]} only"
    sets: list[tuple[str, tuple[Pool, ...]]] = [
        ("squeeze", config.squeeze_factors),
        ("query_pool", config.query_pools),
        ("kv_pool", config.kv_pools),
    ]
    return "; ".join(f"{name} {', '.join(map(_written, pools))}" for name, pools in sets)


def draw_compute(config: ModelConfig, seed: int, update: int, index: int, per_layer: bool = False) -> Compute:
    """A point for micro-batch `index` of an update, uniform over each of the model's sets (arXiv 2204.11934).

    A function of these arguments only, so equal in all processes. per_layer: pools are drawn for each layer, not one
    for all.
    """
    random = np.random.default_rng((seed, update, index, _DRAW))

    def pool(among: tuple[Pool, ...]) -> Pool:
        numbers = [number for number in among if isinstance(number, int)]
        if per_layer and numbers:
            return tuple(numbers[i] for i in random.integers(len(numbers), size=config.num_layers))
        return among[random.integers(len(among))]

    squeeze = config.squeeze_factors[random.integers(len(config.squeeze_factors))]
    return Compute(squeeze, pool(config.query_pools), pool(config.kv_pools))


def macs(config: ModelConfig, num_samples: int, compute: Compute | None = None) -> dict[str, int]:
    """Multiply-accumulates by stage for one utterance of `num_samples` samples, softmax and norms not counted.

    Without `compute`, of the dearest point.
    """
    compute = resolve(config, None) if compute is None else compute
    frames = lengths.num_frames(num_samples, config.conv_layers)
    squeezed = lengths.squeezed_length(frames, compute.squeeze)
    hidden, ffn = config.hidden_size, config.ffn_size
    group_size = hidden // config.pos_conv_groups
    upsampled = config.family != "wav2vec2" or compute.squeeze > 1
    stages = {
        "features": _extractor_macs(config, num_samples),
        "projection": frames * config.feature_size * hidden if config.project_features else 0,
        "squeeze": squeezed * hidden * group_size * config.pos_conv_kernel,
        "encoder: attention": sum(
            _attention_macs(config, squeezed, *pools) for pools in compute.pools(config.num_layers)
        ),
        "encoder: feed-forward": config.num_layers * 2 * squeezed * hidden * ffn,
        "upsample": squeezed * hidden * hidden * compute.squeeze if upsampled else 0,
        "head": frames * hidden * (config.vocab_size or 0),
    }
    return {stage: cost for stage, cost in stages.items() if cost}


def _attention_macs(config: ModelConfig, squeezed: int, query_pool: int, kv_pool: int) -> int:
    """Of one layer: four projections, scores and weighted sums; in SEW-D both position terms."""
    hidden = config.hidden_size
    queries, keys = lengths.pooled_length(squeezed, query_pool), lengths.pooled_length(squeezed, kv_pool)
    cost = 2 * (queries + keys) * hidden * hidden + 2 * queries * keys * hidden
    if config.family == "sew-d":
        # They multiply every query and every key with the rows of the table that the clip can reach.
        reach = (queries - 1) * query_pool + (keys - 1) * kv_pool
        rows = min(2 * config.position_buckets, max(reach + 1, 0))
        cost += (queries + keys) * rows * hidden + 2 * rows * hidden * hidden
    return cost


def _extractor_macs(config: ModelConfig, num_samples: int) -> int:
    total, channels, length = 0, 1, num_samples
    for width, kernel, stride in config.conv_layers:
        length = lengths.conv_length(length, kernel, stride)
        total += length * channels * width * kernel
        channels = width
    return total

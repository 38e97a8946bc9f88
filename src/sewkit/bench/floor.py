"""How fast a model could be on this machine: micro-benchmarks of exactly its shapes, stage by stage.

Each is a matrix product, convolution or attention that the model cannot do without, or a pass over frames that it needs
(GELU, LayerNorm, sums), by itself and with weights of its own for each layer, as in the model. Where there are several
ways to compute one, all are timed and the fastest counts. All are PyTorch's, those of int8 oneDNN's through it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sewkit.compute import Compute
from sewkit.config import ModelConfig
from sewkit.errors import UserError
from sewkit.lengths import conv_length, num_frames, pooled_length, squeezed_length
from sewkit.runtime.graph_features import SCALED_FROM
from sewkit.runtime.product import Product

FEATURES, PROJECTION, SQUEEZE, ENCODER, UPSAMPLE, HEAD = (
    "features",
    "projection",
    "squeeze",
    "encoder",
    "up-sampling",
    "head",
)
Call = Callable[[], object]
LARGEST_WINDOWS = 2**27
"""Elements beyond which windows are not laid out for a product: nobody would."""


@dataclass(frozen=True)
class Micro:
    """One piece of work of a stage, with the ways to do it; `macs` is 0 for a pass over frames."""

    stage: str
    name: str
    macs: int
    ways: dict[str, Call]


@dataclass
class Shapes:
    """The shapes of a model at one operating point, for clips of `num_samples`.

    dtype: of all but, with `int8`, linear layers and the extractor's wide convolutions.
    """

    config: ModelConfig
    num_samples: int
    point: Compute
    batch_size: int = 1
    dtype: torch.dtype = torch.float32
    int8: bool = False
    frames: int = field(init=False)
    squeezed: int = field(init=False)

    def __post_init__(self) -> None:
        self.frames = num_frames(self.num_samples, self.config.conv_layers)
        self.squeezed = squeezed_length(self.frames, self.point.squeeze)

    def random(self, *shape: int) -> Tensor:
        """Numbers small enough that no sum of products leaves the range of any type."""
        return torch.randn(*shape, dtype=torch.float32).mul_(0.02).to(self.dtype)


class Int8Product:
    """A product of (rows, K) numbers of 8 bits by (K, N) that gives (rows, N) of 8 bits, as from layer to layer."""

    def __init__(self, rows: int, inner: int, outer: int):
        self.x = torch.randint(0, 256, (rows, inner), dtype=torch.uint8)
        self.weight = torch.randint(-127, 128, (outer, inner), dtype=torch.int8)
        self.of_row = torch.full((outer,), 0.01), torch.zeros(outer, dtype=torch.int64)
        self.packed: Tensor | None = None

    def __call__(self) -> Tensor:
        """Raises UserError where this PyTorch has no such products."""
        ops = torch.ops.onednn
        if not hasattr(ops, "qlinear_pointwise"):
            raise UserError(f"PyTorch {torch.__version__} has no products of int8 to compare with")
        if self.packed is None:
            self.packed = ops.qlinear_prepack(self.weight, list(self.x.shape))
        return ops.qlinear_pointwise(
            self.x, 0.02, 128, self.packed, *self.of_row, None, 0.1, 128, torch.uint8, "none", [], "none"
        )


def micros(shapes: Shapes) -> list[Micro]:
    """All of a model's, in the order of its stages."""
    return [
        *_features(shapes),
        *_projection(shapes),
        *_squeeze(shapes),
        *_encoder(shapes),
        *_upsample(shapes),
        *_head(shapes),
    ]


def _features(shapes: Shapes) -> Iterator[Micro]:
    channels, length, batch_size = 1, shapes.num_samples, shapes.batch_size
    for index, (width, kernel, stride) in enumerate(shapes.config.conv_layers):
        out = conv_length(length, kernel, stride)
        if in_int8 := shapes.int8 and channels >= SCALED_FROM:
            ways: dict[str, Call] = {"int8": Int8Product(batch_size * out, channels * kernel, width)}
        else:
            weight = shapes.random(width, channels, kernel)
            ways = _convolution(shapes, shapes.random(batch_size, channels, length), weight, stride, out)
        name = f"conv {index}: {channels} -> {width}, kernel {kernel}, stride {stride}, {out} frames"
        yield Micro(FEATURES, name, batch_size * out * channels * width * kernel, ways)
        if in_int8:
            scaled = _scaling(shapes.random(batch_size, length, channels))
            yield Micro(FEATURES, f"scales {index}: {length} x {channels}", 0, scaled)
        yield Micro(FEATURES, f"GELU {index}: {out} x {width}", 0, _gelu(shapes.random(batch_size, out, width)))
        channels, length = width, out


def _convolution(shapes: Shapes, x: Tensor, weight: Tensor, stride: int, out: int) -> dict[str, Call]:
    """Of (B, C, T) with (W, C, K): as such, with channels together, and as a product with windows that are laid out."""
    width, channels, kernel = weight.shape
    image = x[:, :, None].to(memory_format=torch.channels_last)
    filters = weight[:, :, None].to(memory_format=torch.channels_last)
    ways: dict[str, Call] = {
        "conv1d": lambda: F.conv1d(x, weight, stride=stride),
        "channels last": lambda: F.conv2d(image, filters, stride=(1, stride)),
    }
    if len(x) * out * channels * kernel <= LARGEST_WINDOWS:
        windows, matrix = shapes.random(len(x) * out, channels * kernel), shapes.random(channels * kernel, width)
        packed = Product(matrix.t(), None)
        ways |= {"product": lambda: windows @ matrix, "packed": lambda: packed(windows)}
    return ways


def _projection(shapes: Shapes) -> Iterator[Micro]:
    config, rows = shapes.config, shapes.batch_size * shapes.frames
    yield Micro(PROJECTION, f"LayerNorm: {rows} x {config.feature_size}", 0, _norm(shapes, rows, config.feature_size))
    if config.project_features:
        yield _products(shapes, PROJECTION, "projection", rows, (config.feature_size, config.hidden_size), 1)


def _squeeze(shapes: Shapes) -> Iterator[Micro]:
    config, batch_size, squeezed = shapes.config, shapes.batch_size, shapes.squeezed
    hidden, kernel, groups = config.hidden_size, config.pos_conv_kernel, config.pos_conv_groups
    factor, size = shapes.point.squeeze, hidden // groups
    x, weight = shapes.random(batch_size, hidden, shapes.frames), shapes.random(hidden, size, kernel)
    ways: dict[str, Call] = {
        "conv1d": lambda: F.conv1d(x, weight, stride=factor, padding=kernel // 2, groups=groups),
    }
    if batch_size * squeezed * hidden * kernel <= LARGEST_WINDOWS:
        windows = shapes.random(groups, batch_size * squeezed, size * kernel)
        matrices = shapes.random(groups, size * kernel, size)
        ways["products"] = lambda: windows @ matrices
    name = f"grouped conv: {hidden}, {groups} groups, kernel {kernel}, stride {factor}, {squeezed} frames"
    yield Micro(SQUEEZE, name, batch_size * squeezed * hidden * size * kernel, ways)
    frames = shapes.random(batch_size, squeezed, hidden)
    yield Micro(SQUEEZE, f"GELU: {squeezed} x {hidden}", 0, _gelu(frames))
    if factor > 1:
        yield Micro(SQUEEZE, "average pool", 0, {"avg_pool1d": lambda: F.avg_pool1d(x, factor)})
    yield Micro(SQUEEZE, f"sum: {squeezed} x {hidden}", 0, {"add": lambda: frames + frames})


def _encoder(shapes: Shapes) -> Iterator[Micro]:
    config, rows = shapes.config, shapes.batch_size * shapes.squeezed
    hidden, layers = config.hidden_size, config.num_layers
    pools = shapes.point.pools(layers)
    for query_pool, kv_pool in dict.fromkeys(pools):
        yield from _attention(shapes, query_pool, kv_pool, pools.count((query_pool, kv_pool)))
    yield _products(shapes, ENCODER, "feed-forward up", rows, (hidden, config.ffn_size), layers)
    gelu = _gelu(shapes.random(rows, config.ffn_size))["gelu"]
    yield Micro(ENCODER, f"GELU: {rows} x {config.ffn_size}, {layers} layers", 0, {"gelu": _times(gelu, layers)})
    yield _products(shapes, ENCODER, "feed-forward down", rows, (config.ffn_size, hidden), layers)
    norm, x = _norm(shapes, rows, hidden)["layer_norm"], shapes.random(rows, hidden)
    passes = {"add and layer_norm": _times(lambda: (x + x, norm()), 2 * layers)}
    yield Micro(ENCODER, f"sums and LayerNorms: {rows} x {hidden}, {layers} layers", 0, passes)


def _attention(shapes: Shapes, query_pool: int, kv_pool: int, layers: int) -> Iterator[Micro]:
    """Of the layers that pool alike."""
    config, batch_size = shapes.config, shapes.batch_size
    hidden, heads = config.hidden_size, config.num_heads
    queries, keys = (pooled_length(shapes.squeezed, pool) for pool in (query_pool, kv_pool))
    if query_pool == kv_pool:
        yield _products(shapes, ENCODER, "queries, keys, values", batch_size * queries, (hidden, 3 * hidden), layers)
    else:
        yield _products(shapes, ENCODER, "queries", batch_size * queries, (hidden, hidden), layers)
        yield _products(shapes, ENCODER, "keys, values", batch_size * keys, (hidden, 2 * hidden), layers)
    query = shapes.random(batch_size, heads, queries, hidden // heads)
    key = shapes.random(batch_size, heads, keys, hidden // heads)
    mask = None
    if config.family == "sew-d":
        yield from _positions(shapes, query, key, (query_pool, kv_pool), layers)
        mask = shapes.random(batch_size, heads, queries, keys)
    attend = _times(lambda: F.scaled_dot_product_attention(query, key, key, attn_mask=mask), layers)
    cost = layers * 2 * batch_size * queries * keys * hidden
    yield Micro(ENCODER, f"attention: {heads} heads, {queries} x {keys}, {layers} layers", cost, {"sdpa": attend})
    yield _products(shapes, ENCODER, "attention output", batch_size * queries, (hidden, hidden), layers)


def _positions(shapes: Shapes, query: Tensor, key: Tensor, pools: tuple[int, int], layers: int) -> Iterator[Micro]:
    """Of disentangled attention: queries and keys by the rows of the table that are reached, and the terms' sum."""
    config, (queries, keys) = shapes.config, (query.shape[2], key.shape[2])
    reach = (queries - 1) * pools[0] + (keys - 1) * pools[1] + 1
    rows = min(2 * config.position_buckets, reach)
    table = shapes.random(query.shape[1], query.shape[3], rows)
    products = _times(lambda: (query @ table, key @ table), layers)
    cost = layers * len(query) * (queries + keys) * rows * config.hidden_size
    yield Micro(ENCODER, f"position terms: {queries} + {keys} by {rows} rows, {layers} layers", cost, {"bmm": products})
    scores = shapes.random(len(query), query.shape[1], queries, keys)
    yield Micro(ENCODER, f"sum of terms, {layers} layers", 0, {"add": _times(lambda: scores + scores, layers)})


def _upsample(shapes: Shapes) -> Iterator[Micro]:
    config, factor = shapes.config, shapes.point.squeeze
    if config.family == "wav2vec2" and factor == 1:
        return
    rows, hidden = shapes.batch_size * shapes.squeezed, config.hidden_size
    yield _products(shapes, UPSAMPLE, "linear", rows, (hidden, factor * hidden), 1)
    yield Micro(UPSAMPLE, "GELU", 0, _gelu(shapes.random(rows, factor * hidden)))


def _head(shapes: Shapes) -> Iterator[Micro]:
    rows, config = shapes.batch_size * shapes.frames, shapes.config
    if config.vocab_size is not None:
        yield _products(shapes, HEAD, "letters", rows, (config.hidden_size, config.vocab_size), 1)


def _products(shapes: Shapes, stage: str, name: str, rows: int, matrix: tuple[int, int], layers: int) -> Micro:
    """A linear layer in each of `layers`, each with its own weights."""
    inner, outer = matrix
    described = f"{name}: {rows} x {inner} by {inner} x {outer}" + (f", {layers} layers" if layers > 1 else "")
    cost = layers * rows * inner * outer
    if shapes.int8:
        in_int8 = [Int8Product(rows, inner, outer) for _ in range(layers)]
        return Micro(stage, described, cost, {"int8": lambda: [product() for product in in_int8]})
    x, weights = shapes.random(rows, inner), [shapes.random(outer, inner) for _ in range(layers)]
    bias = shapes.random(outer)

    packed = [Product(weight, bias) for weight in weights]

    def run() -> None:
        for weight in weights:
            F.linear(x, weight, bias)

    def run_packed() -> None:
        for layer in packed:
            layer(x)

    return Micro(stage, described, cost, {"linear": run, "packed": run_packed})


def _scaling(x: Tensor) -> dict[str, Call]:
    """A scale for each frame; less than what is needed, for the scales must be found too."""
    scales = torch.rand(*x.shape[:2], 1, dtype=x.dtype)
    return {"mul": lambda: x * scales}


def _gelu(x: Tensor) -> dict[str, Call]:
    return {"gelu": lambda: F.gelu(x)}


def _norm(shapes: Shapes, rows: int, size: int) -> dict[str, Call]:
    x, gain = shapes.random(rows, size), shapes.random(size)
    return {"layer_norm": lambda: F.layer_norm(x, (size,), gain, gain)}


def _times(call: Call, count: int) -> Call:
    def run() -> None:
        for _ in range(count):
            call()

    return run

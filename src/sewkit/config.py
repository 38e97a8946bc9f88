"""The shape of a model, and the published sizes.

One frozen, validated `ModelConfig` describes every member of the family. `PUBLISHED` holds the sizes of the wav2vec 2.0
paper (arXiv 2006.11477) and of SEW (arXiv 2109.06870, table of architectures), each written as its difference from
its family's base. A config is saved with the weights and alone rebuilds the model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Family = Literal["wav2vec2", "sew", "sew-d"]
Size = Annotated[int, Field(ge=1, le=2**16)]
"""A width, kernel, stride or count; bounded, so that a damaged file is refused before it asks for memory."""
ConvLayer = tuple[Size, Size, Size]
"""(output channels, kernel in frames, stride in frames) of one convolution of the feature extractor."""
Pool = Size | tuple[Size, ...]
"""Frames pooled into one inside attention: in all layers alike, or layer by layer."""


def wav2vec2_conv_layers(width: int = 512) -> tuple[ConvLayer, ...]:
    """The extractor of wav2vec 2.0: seven equally wide convolutions, 320 samples a frame, each seeing 400."""
    return ((width, 10, 5), *[(width, 3, 2)] * 4, *[(width, 2, 2)] * 2)


def compact_conv_layers(first_width: int = 64, extra: int = 1) -> tuple[ConvLayer, ...]:
    """SEW's compact wave feature extractor, WFE-C (arXiv 2109.06870, section 4.2): the width doubles as the rate falls.

    `first_width` is the paper's c, `extra` its l: 1x1 convolutions after every strided one but the first.
    """
    layers = [(first_width, 10, 5)]
    for factor, kernel in ((2, 3), (2, 3), (4, 3), (4, 3), (8, 2), (8, 2)):
        width = factor * first_width
        layers += [(width, kernel, 2), *[(width, 1, 1)] * extra]
    return tuple(layers)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Dropout(_Frozen):
    """Dropout probabilities in training, named as transformers names them."""

    hidden: float = Field(0.1, ge=0, lt=1, description="fairseq dropout; SEW-D ignores it, as the original does")
    attention: float = Field(0.1, ge=0, lt=1, description="on attention probabilities")
    activation: float = Field(0.0, ge=0, lt=1, description="inside the feed-forward block; in SEW-D the hidden dropout")
    input: float = Field(0.1, ge=0, lt=1, description="on projected features; fairseq dropout_input")
    final: float = Field(0.0, ge=0, lt=1, description="before the CTC head")
    layerdrop: float = Field(0.05, ge=0, lt=1, description="probability that a layer is skipped")


class Masking(_Frozen):
    """Masking in training (wav2vec 2.0 section 3.1; SpecAugment in fine-tuning)."""

    time_prob: float = Field(
        0.65, ge=0, le=1, description="mask_time_prob: masked share of frames if spans did not overlap"
    )
    time_length: int = Field(10, ge=1, description="frames of one span")
    channel_prob: float = Field(0.0, ge=0, le=1, description="mask_feature_prob")
    channel_length: int = Field(10, ge=1, description="channels of one span")


class Stochastic(_Frozen):
    """What a stochastic model can be run at (arXiv 2204.11934): any member of one set with any of the others."""

    squeeze_factors: tuple[Size, ...] = (1, 2, 3, 4)
    query_pools: tuple[Pool, ...] = (1, 2)
    kv_pools: tuple[Pool, ...] = (1, 2)
    position_unit: Size | None = None


class ModelConfig(_Frozen):
    """Everything needed to build a model; sizes in channels, kernels in frames.

    `squeeze_factor=2` is short for `squeeze_factors=(2,)`. A fixed model has one squeeze factor and one pool of each
    kind; one with more is stochastic (arXiv 2204.11934), and `compute.operating_points` are all their combinations.
    """

    family: Family
    conv_layers: tuple[ConvLayer, ...] = Field(min_length=1, max_length=100)
    conv_bias: bool = False
    extractor_norm: Literal["group", "layer"] = Field(
        "group",
        description="'group': one per-channel norm over time after the first convolution; 'layer': after every one",
    )
    normalize_input: bool = Field(False, description="waveforms to zero mean and unit variance, each by itself")
    input_norm_eps: float = Field(1e-7, gt=0, description="1e-7 in transformers, 1e-5 in fairseq")
    feature_norm_eps: float = Field(1e-5, gt=0)
    project_features: bool = Field(
        False, description="a linear layer before the encoder; if not given, where sizes differ"
    )
    hidden_size: Size
    num_layers: int = Field(ge=0, le=1000)
    num_heads: Size
    ffn_size: Size
    norm_first: bool = Field(False, description="pre-norm layers; do_stable_layer_norm in transformers")
    layer_norm_eps: float = Field(1e-5, gt=0)
    pos_conv_kernel: Size = 128
    pos_conv_groups: Size = 16
    squeeze_factors: tuple[Size, ...] = Field(
        (1,), min_length=1, description="50 Hz frames in a squeezed one (SEW section 4.3); wav2vec 2.0 does not squeeze"
    )
    query_pools: tuple[Pool, ...] = Field((1,), min_length=1, description="squeezed frames in a query of attention")
    kv_pools: tuple[Pool, ...] = Field((1,), min_length=1, description="squeezed frames in a key and value")
    position_buckets: Size = Field(256, ge=2, description="SEW-D: log buckets a side, the table has twice as many rows")
    max_positions: Size = Field(512, ge=4, description="SEW-D: distance at which the buckets saturate")
    position_unit: Size | None = Field(
        None,
        description="SEW-D: 50 Hz frames in one step of relative position, the same for all squeeze factors; "
        "None: a step is a squeezed frame of the factor that runs, as in every fixed SEW-D",
    )
    vocab_size: Size | None = Field(None, description="outputs of the CTC head; None for none")
    num_labels: Size | None = Field(None, description="outputs of the classification head; None for none")
    classifier_size: Size = Field(256, description="width of the classification head's projector")
    weighted_layer_sum: bool = Field(False, description="classify from a learned mix of all layers")
    dropout: Dropout = Dropout()
    masking: Masking = Masking()

    @model_validator(mode="before")
    @classmethod
    def _one_squeeze_factor(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "squeeze_factor" not in values:
            return values
        if "squeeze_factors" in values:
            raise ValueError("give squeeze_factor, which is short for squeeze_factors of one, or squeeze_factors")
        others = {name: value for name, value in values.items() if name != "squeeze_factor"}
        return {**others, "squeeze_factors": (values["squeeze_factor"],)}

    @model_validator(mode="before")
    @classmethod
    def _project_where_sizes_differ(cls, values: Any) -> Any:
        """Features are projected where their width is not the encoder's, unless the config says otherwise."""
        if isinstance(values, dict) and "project_features" not in values and values.get("conv_layers"):
            values = {**values, "project_features": values["conv_layers"][-1][0] != values.get("hidden_size")}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.hidden_size % self.pos_conv_groups:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of pos_conv_groups {self.pos_conv_groups}"
            )
        if not self.project_features and self.feature_size != self.hidden_size:
            raise ValueError(
                f"features of width {self.feature_size} need a projection to hidden_size {self.hidden_size}"
            )
        if self.family == "wav2vec2" and 1 not in self.squeeze_factors:
            raise ValueError("wav2vec 2.0 does not squeeze: squeeze_factor must be 1, or the family 'sew'")
        self._check_sets()
        if self.family == "sew-d" and self.norm_first:
            raise ValueError("SEW-D has post-norm layers only: norm_first must be false")
        if self.family == "sew-d" and self.max_positions - 1 <= self.position_buckets // 2:
            raise ValueError(
                f"max_positions {self.max_positions} leaves no log buckets beyond {self.position_buckets // 2}"
            )
        if self.vocab_size is not None and self.num_labels is not None:
            raise ValueError("a model has one head: give vocab_size (CTC) or num_labels (classification), not both")
        return self

    def _check_sets(self) -> None:
        for name in ("squeeze_factors", "query_pools", "kv_pools"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} {values} says something twice")
            for value in values:
                if isinstance(value, tuple) and len(value) != self.num_layers:
                    raise ValueError(f"{name}: {len(value)} pools for {self.num_layers} layers")

    @property
    def squeeze_factor(self) -> int:
        """The squeeze factor of a fixed model; of a stochastic one the smallest, at which it computes most."""
        return min(self.squeeze_factors)

    @property
    def is_stochastic(self) -> bool:
        """Whether there is more than one operating point."""
        return len(self.squeeze_factors) * len(self.query_pools) * len(self.kv_pools) > 1

    @property
    def feature_size(self) -> int:
        """Channels of the feature extractor's output."""
        return self.conv_layers[-1][0]

    def replace(self, **changes: Any) -> ModelConfig:
        """A validated copy with some fields changed."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        if "project_features" not in changes and {"conv_layers", "hidden_size"} & changes.keys():
            del fields["project_features"]
        if "squeeze_factor" in changes:
            del fields["squeeze_factors"]
        return ModelConfig(**{**fields, **changes})


def _sized(base: ModelConfig, hidden_size: int, num_layers: int = 12, **changes: Any) -> ModelConfig:
    """A published size: heads of 64 and a feed-forward block four times as wide, as in all of them."""
    layerdrop = 0.05 if num_layers == 12 else 0.2
    return base.replace(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=hidden_size // 64,
        ffn_size=4 * hidden_size,
        dropout=base.dropout.model_copy(update={"layerdrop": layerdrop}),
        **changes,
    )


_W2V2_BASE = ModelConfig(
    family="wav2vec2", conv_layers=wav2vec2_conv_layers(), hidden_size=768, num_layers=12, num_heads=12, ffn_size=3072
)
_W2V2_LARGE = _W2V2_BASE.replace(
    hidden_size=1024,
    num_layers=24,
    num_heads=16,
    ffn_size=4096,
    dropout=Dropout(hidden=0, attention=0, input=0, layerdrop=0),
)
_SEW = _W2V2_BASE.replace(family="sew", conv_layers=compact_conv_layers(64), pos_conv_kernel=31, squeeze_factor=2)
_SEW_D = _SEW.replace(family="sew-d", layer_norm_eps=1e-7)

PUBLISHED: dict[str, ModelConfig] = {
    "w2v2-base": _W2V2_BASE,
    "w2v2-large": _W2V2_LARGE,
    "w2v2-large-lv60": _W2V2_LARGE.replace(
        extractor_norm="layer", conv_bias=True, norm_first=True, normalize_input=True
    ),
    "sew-tiny": _sized(_SEW, 512),
    "sew-small": _sized(_SEW, 768),
    "sew-mid": _sized(_SEW, 768, 24),
    "sew-d-tiny": _sized(_SEW_D, 384),
    "sew-d-small": _sized(_SEW_D, 512),
    "sew-d-mid": _sized(_SEW_D, 512, 24),
    "sew-d-mid-k127": _sized(_SEW_D, 512, 24, pos_conv_kernel=127),
    "sew-d-base": _sized(_SEW_D, 768, 24),
    "sew-d-base-plus": _sized(_SEW_D, 768, 24, conv_layers=compact_conv_layers(96)),
}
"""Architectures by name, without a head; `PUBLISHED["sew-tiny"].replace(vocab_size=32)` gives one for letters."""

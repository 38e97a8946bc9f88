"""The layout of transformers: config.json <-> ModelConfig, and the names of the tensors.

Facts: transformers' configuration_{wav2vec2,sew,sew_d}.py and modeling_*.py, 4.57 and 5.23. A key that a config.json
lacks has the default of its class there, which is not the value of the published models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from sewkit.checkpoint.errors import CheckpointError
from sewkit.checkpoint.keymap import KeyMap, Rows
from sewkit.config import Family, ModelConfig
from sewkit.text import Alphabet

FORMAT_VERSION = 1
"""Of what we note under "sewkit" in config.json, where transformers has no field for it."""

# ---- configuration ---------------------------------------------------------------------------------------------

_FIELDS = (
    ("conv_bias", "conv_bias"),
    ("extractor_norm", "feat_extract_norm"),
    ("hidden_size", "hidden_size"),
    ("num_layers", "num_hidden_layers"),
    ("num_heads", "num_attention_heads"),
    ("ffn_size", "intermediate_size"),
    ("layer_norm_eps", "layer_norm_eps"),
    ("pos_conv_kernel", "num_conv_pos_embeddings"),
    ("pos_conv_groups", "num_conv_pos_embedding_groups"),
    ("classifier_size", "classifier_proj_size"),
    ("weighted_layer_sum", "use_weighted_layer_sum"),
    ("dropout.hidden", "hidden_dropout"),
    ("dropout.attention", "attention_dropout"),
    ("dropout.activation", "activation_dropout"),
    ("dropout.input", "feat_proj_dropout"),
    ("dropout.final", "final_dropout"),
    ("dropout.layerdrop", "layerdrop"),
    ("masking.time_prob", "mask_time_prob"),
    ("masking.time_length", "mask_time_length"),
    ("masking.channel_prob", "mask_feature_prob"),
    ("masking.channel_length", "mask_feature_length"),
)
"""(ours, transformers'); a dot leads into a nested group."""

_FAMILY_FIELDS: dict[Family, tuple[tuple[str, str], ...]] = {
    "wav2vec2": (("norm_first", "do_stable_layer_norm"),),
    "sew": (("squeeze_factor", "squeeze_factor"),),
    "sew-d": (
        ("squeeze_factor", "squeeze_factor"),
        ("position_buckets", "position_buckets"),
        ("max_positions", "max_position_embeddings"),
        ("feature_norm_eps", "feature_layer_norm_eps"),
    ),
}

_SHARED_DEFAULTS: dict[str, Any] = {
    "conv_bias": False,
    "feat_extract_norm": "group",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-5,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "classifier_proj_size": 256,
    "use_weighted_layer_sum": False,
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "final_dropout": 0.1,
    "layerdrop": 0.1,
    "mask_time_prob": 0.05,
    "mask_time_length": 10,
    "mask_feature_prob": 0.0,
    "mask_feature_length": 10,
    "apply_spec_augment": True,
    "vocab_size": 32,
    "pad_token_id": 0,
}
_SQUEEZED_DEFAULTS = {
    **_SHARED_DEFAULTS,
    "squeeze_factor": 2,
    "conv_dim": (64, 128, 128, 128, 128, 256, 256, 256, 256, 512, 512, 512, 512),
    "conv_kernel": (10, 3, 1, 3, 1, 3, 1, 3, 1, 2, 1, 2, 1),
    "conv_stride": (5, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1),
}
CLASS_DEFAULTS: dict[Family, dict[str, Any]] = {
    "wav2vec2": {
        **_SHARED_DEFAULTS,
        "do_stable_layer_norm": False,
        "conv_dim": (512,) * 7,
        "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
        "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    },
    "sew": _SQUEEZED_DEFAULTS,
    "sew-d": {
        **_SQUEEZED_DEFAULTS,
        "position_buckets": 256,
        "max_position_embeddings": 512,
        "layer_norm_eps": 1e-7,
        "feature_layer_norm_eps": 1e-5,
        "layerdrop": 0.0,  # the class has no such field: what transformers runs is SEW-D without LayerDrop
    },
}

_GELU = ("gelu", "gelu_python")
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": _GELU,
    "feat_extract_activation": _GELU,
    "add_adapter": (False, None),
    "adapter_attn_dim": (None,),
    "tie_last_hidden_states": (True, None),
    # SEW-D runs DeBERTa in one of its many modes.
    "relative_attention": (True,),
    "share_att_key": (True,),
    "position_biased_input": (False, None),
    "norm_rel_ebd": ("layer_norm",),
    "conv_kernel_size": (0, None),
    "attention_head_size": (None,),
}
"""Options that change what a model computes, with the values that we compute; a config without the key is fine."""

_CLASS_NAMES: dict[Family, str] = {"wav2vec2": "Wav2Vec2", "sew": "SEW", "sew-d": "SEWD"}
_MOST_LABELS = 2**16
_CTC, _CLASSIFICATION = "ForCTC", "ForSequenceClassification"
_BARE = ("Model", "ForPreTraining")


def read_config(raw: Mapping[str, Any], tensor_names: set[str], source: object) -> ModelConfig:
    """config.json as a dict -> ModelConfig; `normalize_input` is not in it, see `tokenizer.py`.

    `tensor_names` tell the head where the config does not. Raises CheckpointError, by name, for what we do not compute.
    """
    family = _family(raw, source)
    _refuse_unsupported(raw, family, source)
    values = {**CLASS_DEFAULTS[family], **raw}
    fields: dict[str, Any] = {"family": family, "conv_layers": _conv_layers(values, source)}
    for ours, theirs in _FIELDS + _FAMILY_FIELDS[family]:
        group, _, name = ours.rpartition(".")
        (fields.setdefault(group, {}) if group else fields)[name] = values[theirs]
    if not values["apply_spec_augment"]:
        fields["masking"].update(time_prob=0.0, channel_prob=0.0)
    fields.setdefault("feature_norm_eps", values["layer_norm_eps"])
    # transformers' wav2vec 2.0 projects always, its SEW and SEW-D where the sizes differ.
    if family == "wav2vec2":
        fields["project_features"] = True
    fields.update(_head(raw, values, tensor_names, source))
    return validated(fields, source)


def validated(fields: Mapping[str, Any], source: object) -> ModelConfig:
    """ModelConfig(**fields), with what is wrong on one line that names the file."""
    try:
        return ModelConfig(**fields)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()]
        raise CheckpointError(f"{source}: not a valid configuration: {'; '.join(problems)}") from error


def _family(raw: Mapping[str, Any], source: object) -> Family:
    model_type = raw.get("model_type")
    for family in CLASS_DEFAULTS:
        if model_type == family:
            return family
    raise CheckpointError(
        f"{source}: model_type is {model_type!r}; sewkit reads {', '.join(map(repr, CLASS_DEFAULTS))} of transformers"
    )


def _refuse_unsupported(raw: Mapping[str, Any], family: Family, source: object) -> None:
    for key, accepted in _ACCEPTED.items():
        if key in raw and raw[key] not in accepted:
            what = "adapters are not supported" if "adapter" in key else f"expected {accepted[0]!r}"
            raise CheckpointError(f"{source}: {key} is {raw[key]!r}; {what}")
    if family == "sew-d":
        _refuse_other_positions(raw, source)


def _refuse_other_positions(raw: Mapping[str, Any], source: object) -> None:
    kinds = raw.get("pos_att_type", ("p2c", "c2p"))
    kinds = kinds.split("|") if isinstance(kinds, str) else kinds or ()
    if {kind.strip() for kind in kinds} != {"p2c", "c2p"}:
        raise CheckpointError(f"{source}: pos_att_type is {raw['pos_att_type']!r}; expected ['p2c', 'c2p']")
    positions = raw.get("max_position_embeddings", CLASS_DEFAULTS["sew-d"]["max_position_embeddings"])
    if (raw.get("max_relative_positions") or -1) not in (-1, positions):
        raise CheckpointError(
            f"{source}: max_relative_positions is {raw['max_relative_positions']}; expected -1 or {positions}"
        )
    if (raw.get("position_buckets") or 1) < 1:
        raise CheckpointError(f"{source}: position_buckets is {raw['position_buckets']}; expected logarithmic buckets")


def _conv_layers(values: Mapping[str, Any], source: object) -> list[tuple[Any, Any, Any]]:
    columns = [values[key] for key in ("conv_dim", "conv_kernel", "conv_stride")]
    try:
        return list(zip(*columns, strict=True))
    except (TypeError, ValueError):
        raise CheckpointError(f"{source}: conv_dim, conv_kernel, conv_stride must be lists of one length") from None


def _head(raw: Mapping[str, Any], values: Mapping[str, Any], tensor_names: set[str], source: object) -> dict[str, int]:
    kind = _head_kind(raw, tensor_names, source)
    if kind == _CTC:
        return {"vocab_size": values["vocab_size"]}
    if kind == _CLASSIFICATION:
        return {"num_labels": len(read_labels(raw))}
    return {}


def _head_kind(raw: Mapping[str, Any], tensor_names: set[str], source: object) -> str | None:
    architectures = raw.get("architectures") or []
    for architecture in architectures:
        for suffix in (_CTC, _CLASSIFICATION, *_BARE):
            if architecture.endswith(suffix):
                return suffix
    if architectures:
        raise CheckpointError(
            f"{source}: {architectures[0]} is not supported; sewkit reads models, ...{_CTC} and ...{_CLASSIFICATION}"
        )
    if "lm_head.weight" in tensor_names:
        return _CTC
    return _CLASSIFICATION if "classifier.weight" in tensor_names else None


def read_labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes by id, as id2label says; LABEL_0 and so on where it does not."""
    named = {int(index): str(label) for index, label in (raw.get("id2label") or {}).items()}
    count = max(named, default=-1) + 1 or int(raw.get("num_labels") or 2)
    if count > _MOST_LABELS:
        raise ValueError(f"{count} labels")
    return tuple(named.get(index, f"LABEL_{index}") for index in range(count))


def unknown_to_transformers(config: ModelConfig) -> str | None:
    """Why transformers has no class that computes this model; None where it has one."""
    if config.is_stochastic:
        return "it is stochastic, with several operating points"
    if config.query_pools != (1,) or config.kv_pools != (1,):
        return "it pools queries or keys"
    if config.family == "sew-d" and config.position_unit not in (None, config.squeeze_factor):
        return "it counts positions in another unit than its squeezed frame"
    if config.family != "sew-d" and config.feature_norm_eps != config.layer_norm_eps:
        return "its LayerNorms have two different eps"
    if config.family == "wav2vec2":
        return None
    if config.norm_first:
        return "it is a pre-norm SEW"
    if config.project_features and config.feature_size == config.hidden_size:
        return "it projects features that have the encoder's width already"
    return None


def write_config(
    config: ModelConfig, alphabet: Alphabet | None, labels: tuple[str, ...] | None, dtype: torch.dtype
) -> dict[str, Any]:
    """ModelConfig -> config.json as a dict."""
    raw: dict[str, Any] = {
        "architectures": [_CLASS_NAMES[config.family] + _suffix(config)],
        "model_type": config.family,
        "torch_dtype": str(dtype).removeprefix("torch."),  # transformers 5 calls it dtype and reads both
        "hidden_act": "gelu",
        "feat_extract_activation": "gelu",
        "conv_dim": [width for width, _, _ in config.conv_layers],
        "conv_kernel": [kernel for _, kernel, _ in config.conv_layers],
        "conv_stride": [stride for _, _, stride in config.conv_layers],
        "num_feat_extract_layers": len(config.conv_layers),
        "apply_spec_augment": True,
        "mask_time_min_masks": 2,
        "mask_feature_min_masks": 0,
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": True,
        "initializer_range": 0.02,
    }
    for ours, theirs in _FIELDS + _FAMILY_FIELDS[config.family]:
        value: Any = config
        for name in ours.split("."):
            value = getattr(value, name)
        raw[theirs] = value
    if config.family == "sew-d":
        raw.update(_SEW_D_CONSTANTS)
    if config.norm_first and config.weighted_layer_sum:
        # The last of the mixed states has passed the final norm: so in transformers 4; 5 does it with this flag.
        raw["tie_last_hidden_states"] = True
    if config.vocab_size is not None:
        raw["vocab_size"] = config.vocab_size
        raw["pad_token_id"] = alphabet.blank if alphabet is not None else 0
    if config.num_labels is not None:
        labels = labels or tuple(f"LABEL_{index}" for index in range(config.num_labels))
        raw["id2label"] = {str(index): label for index, label in enumerate(labels)}
        raw["label2id"] = {label: index for index, label in enumerate(labels)}
    return raw


_SEW_D_CONSTANTS = {
    "hidden_act": "gelu_python",
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "relative_attention": True,
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
}


def _suffix(config: ModelConfig) -> str:
    if config.vocab_size is not None:
        return _CTC
    return _CLASSIFICATION if config.num_labels is not None else _BARE[0]


# ---- tensors -----------------------------------------------------------------------------------------------------

_PREFIX: dict[Family, str] = {"wav2vec2": "wav2vec2.", "sew": "sew.", "sew-d": "sew_d."}
"""Of the encoder's tensors in models with a head; bare encoders have none."""

_HEAD_ROWS: Rows = (
    ("head.{p}", "lm_head.{p}"),
    ("head.projector.{p}", "projector.{p}"),
    ("head.classifier.{p}", "classifier.{p}"),
    ("head.layer_weights", "layer_weights"),
)
_SHARED_ROWS: Rows = (
    ("mask_embedding", "masked_spec_embed"),
    ("features.blocks.{i}.conv.{p}", "feature_extractor.conv_layers.{i}.conv.{p}"),
    ("features.blocks.{i}.norm.{p}", "feature_extractor.conv_layers.{i}.layer_norm.{p}"),
    ("squeeze.position.bias", "encoder.pos_conv_embed.conv.bias"),
    # Written under the old names of weight norm: every version of transformers reads them (4.x up to 4.30 no others),
    # and the published files have them. Newer ones save, and torch loads, original0 (the gain) and original1.
    ("squeeze.position.weight_g", "encoder.pos_conv_embed.conv.weight_g"),
    ("squeeze.position.weight_v", "encoder.pos_conv_embed.conv.weight_v"),
    ("squeeze.position.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    ("squeeze.position.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
)
_PLAIN_ENCODER_ROWS: Rows = (
    ("encoder.norm.{p}", "encoder.layer_norm.{p}"),
    ("encoder.layers.{i}.attention.query.{p}", "encoder.layers.{i}.attention.q_proj.{p}"),
    ("encoder.layers.{i}.attention.key.{p}", "encoder.layers.{i}.attention.k_proj.{p}"),
    ("encoder.layers.{i}.attention.value.{p}", "encoder.layers.{i}.attention.v_proj.{p}"),
    ("encoder.layers.{i}.attention.output.{p}", "encoder.layers.{i}.attention.out_proj.{p}"),
    ("encoder.layers.{i}.attention_norm.{p}", "encoder.layers.{i}.layer_norm.{p}"),
    ("encoder.layers.{i}.feed_forward.up.{p}", "encoder.layers.{i}.feed_forward.intermediate_dense.{p}"),
    ("encoder.layers.{i}.feed_forward.down.{p}", "encoder.layers.{i}.feed_forward.output_dense.{p}"),
    ("encoder.layers.{i}.feed_forward_norm.{p}", "encoder.layers.{i}.final_layer_norm.{p}"),
)
DISENTANGLED_ENCODER_ROWS: Rows = (
    ("encoder.positions.embedding", "encoder.encoder.rel_embeddings.weight"),
    ("encoder.positions.norm.{p}", "encoder.encoder.LayerNorm.{p}"),
    ("encoder.layers.{i}.attention.query.{p}", "encoder.encoder.layer.{i}.attention.self.query_proj.{p}"),
    ("encoder.layers.{i}.attention.key.{p}", "encoder.encoder.layer.{i}.attention.self.key_proj.{p}"),
    ("encoder.layers.{i}.attention.value.{p}", "encoder.encoder.layer.{i}.attention.self.value_proj.{p}"),
    ("encoder.layers.{i}.attention.output.{p}", "encoder.encoder.layer.{i}.attention.output.dense.{p}"),
    ("encoder.layers.{i}.attention_norm.{p}", "encoder.encoder.layer.{i}.attention.output.LayerNorm.{p}"),
    ("encoder.layers.{i}.feed_forward.up.{p}", "encoder.encoder.layer.{i}.intermediate.dense.{p}"),
    ("encoder.layers.{i}.feed_forward.down.{p}", "encoder.encoder.layer.{i}.output.dense.{p}"),
    ("encoder.layers.{i}.feed_forward_norm.{p}", "encoder.encoder.layer.{i}.output.LayerNorm.{p}"),
)
"""Of SEW-D; transformers kept the names of the original."""
_SQUEEZED_ROWS: Rows = (
    ("feature_norm.{p}", "layer_norm.{p}"),
    ("projection.{p}", "feature_projection.{p}"),
    ("upsample.linear.{p}", "encoder.upsample.projection.{p}"),
)
_ROWS: dict[Family, Rows] = {
    "wav2vec2": (
        *_SHARED_ROWS,
        *_PLAIN_ENCODER_ROWS,
        ("feature_norm.{p}", "feature_projection.layer_norm.{p}"),
        ("projection.{p}", "feature_projection.projection.{p}"),
        # Of Wav2Vec2ForPreTraining: used in pre-training only.
        (None, "quantizer.codevectors"),
        (None, "quantizer.weight_proj.{p}"),
        (None, "project_q.{p}"),
        (None, "project_hid.{p}"),
    ),
    "sew": (*_SHARED_ROWS, *_SQUEEZED_ROWS, *_PLAIN_ENCODER_ROWS),
    "sew-d": (*_SHARED_ROWS, *_SQUEEZED_ROWS, *DISENTANGLED_ENCODER_ROWS),
}
KEYMAPS: dict[Family, KeyMap] = {family: KeyMap((*_HEAD_ROWS, *rows)) for family, rows in _ROWS.items()}
"""Names without the encoder's prefix."""


def read_tensors(tensors: Mapping[str, Tensor], family: Family, source: object) -> dict[str, Tensor]:
    """Tensors of a file of transformers, with or without prefix -> under our names."""
    prefix = _PREFIX[family]
    bare = {key.removeprefix(prefix): value for key, value in tensors.items()}
    if len(bare) != len(tensors):
        raise CheckpointError(f"{source}: some tensors appear twice, with and without the prefix {prefix}")
    return KEYMAPS[family].read(bare, source)


def write_tensors(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our tensors -> exactly those that transformers expects."""
    tensors = dict(tensors)
    if not config.masking.time_prob and not config.masking.channel_prob:
        del tensors["mask_embedding"]  # transformers has the parameter only where something is masked
    if config.family == "wav2vec2" and not config.project_features:
        tensors["projection.weight"] = torch.eye(config.hidden_size)
        tensors["projection.bias"] = torch.zeros(config.hidden_size)
    has_head = config.vocab_size is not None or config.num_labels is not None
    prefix, keymap = _PREFIX[config.family] if has_head else "", KEYMAPS[config.family]
    return {("" if key.startswith("head.") else prefix) + keymap.theirs(key): tensors[key] for key in tensors}

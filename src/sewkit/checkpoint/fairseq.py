"""Original .pt files of fairseq (wav2vec 2.0) and asappresearch/sew: options -> ModelConfig, names, letters.

Facts: fairseq 05255f9 and sew 5c66f39. Old files hold their options as a Namespace in `args`, newer ones as dicts in
`cfg`. SEW's hold only what its scripts set; the rest are class defaults. Fine-tuned files often lack the architecture
(`w2v_args`): what the tensors tell is inferred, and the rest must be given.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from sewkit.checkpoint import huggingface
from sewkit.checkpoint.errors import CheckpointError, blaming, one_line
from sewkit.checkpoint.hub import near_names
from sewkit.checkpoint.infer import contradictions, infer
from sewkit.checkpoint.keymap import KeyMap, Rows, fill_model
from sewkit.checkpoint.loaded import LoadedModel
from sewkit.checkpoint.tokenizer import assumed_alphabet, read_json
from sewkit.checkpoint.unpickle import Record, load_torch_file
from sewkit.config import PUBLISHED, Family, ModelConfig
from sewkit.text import Alphabet

INPUT_NORM_EPS = 1e-5
"""fairseq normalises waveforms with layer_norm and its default eps; transformers uses 1e-7."""
FINE_TUNED_PREFIX = "w2v_encoder.w2v_model."
HEAD_PREFIX = "w2v_encoder.proj."


def load_original(path: Path, architecture: str | os.PathLike[str] | None = None) -> LoadedModel:
    """Read a pre-trained or fine-tuned original file; see `load_model` for `architecture`."""
    original = read_original(path)
    with blaming(path):
        given = read_architecture(architecture) if architecture is not None else None
        config = original.config() if given is None else original.with_training_settings(given)
    original.refuse_contradictions(config, architecture)
    names = keymap(config)
    model = fill_model(config, names.read(original.tensors, path), path, names)
    return LoadedModel(model, original.alphabet() if config.vocab_size is not None else None)


class Original:
    """What one original file says."""

    def __init__(self, path: Path, tensors: dict[str, Tensor], options: dict[str, Any], letters: Record | None):
        self.path = path
        self.tensors = tensors  # without the prefix of fine-tuned models
        self.options = options  # "model", "pretrained" (None if the file lacks them), "criterion", "normalize"
        self.letters = letters
        self.fine_tuned = "proj.weight" in tensors

    def config(self) -> ModelConfig:
        """The architecture that the file states. Raises CheckpointError if it states none."""
        options = self.options["pretrained"] if self.fine_tuned else self.options["model"]
        if options is None:
            raise self._no_architecture()
        return self.with_training_settings(read_config(options, self.path))

    def with_training_settings(self, config: ModelConfig) -> ModelConfig:
        """The same architecture with this file's head, input normalisation, dropout and masking."""
        changes: dict[str, Any] = {"input_norm_eps": INPUT_NORM_EPS, "project_features": config.project_features}
        if self.options["normalize"] is not None:
            changes["normalize_input"] = self.options["normalize"]
        if self.fine_tuned:
            changes |= {"vocab_size": len(self.tensors["proj.weight"]), "num_labels": None}
            changes |= _fine_tuning_settings(self.options["model"], config)
        else:
            changes |= {"vocab_size": None, "num_labels": None}
        return config.replace(**changes)

    def refuse_contradictions(self, config: ModelConfig, architecture: str | os.PathLike[str] | None) -> None:
        """Raise CheckpointError if the tensors say otherwise than `config`."""
        whose = f"the architecture {os.fspath(architecture)}" if architecture is not None else "its configuration"
        wrong = contradictions(config, infer(self.tensors, self.path))
        if wrong:
            raise CheckpointError(f"{self.path}: {whose} says {'; '.join(wrong)}")

    def alphabet(self) -> Alphabet | None:
        """The letters of a fine-tuned file; the published 32 where it has none and they fit."""
        if self.letters is None:
            return assumed_alphabet(f"{self.path} holds no letters", len(self.tensors["proj.weight"]))
        return read_dictionary(self.letters, len(self.tensors["proj.weight"]), self.path)

    def _no_architecture(self) -> CheckpointError:
        known = infer(self.tensors, self.path)
        facts = ", ".join(f"{field} {value}" for field, value in known.items() if field != "conv_widths_and_kernels")
        fitting = [name for name, config in PUBLISHED.items() if not contradictions(config, known)]
        remedy = f"these published sizes fit: {', '.join(fitting)}" if fitting else "no published size fits"
        return CheckpointError(
            f"{self.path}: the file does not state its architecture. Its tensors tell: {facts}. They do not tell: "
            "num_heads, strides, norm_first, max_positions. Give the rest with --architecture NAME or FILE "
            f"(architecture= in Python): a published name, a .json or .yaml file of ModelConfig fields, or the "
            f"pre-training .pt file; {remedy}"
        )


def read_original(path: Path) -> Original:
    """Open a file of either layout. Raises CheckpointError if it is none."""
    content = load_torch_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(
            f"{path}: not an original checkpoint: no 'model' in it; for a folder of transformers give the folder"
        )
    tensors = _without_prefix(content["model"], path)
    with blaming(path):
        options = _options(content, path)
        _refuse_other_tasks(options["model"], path)
        letters = (content.get("task_state") or {}).get("target_dictionary")
    return Original(path, tensors, options, letters if isinstance(letters, Record) else None)


def _refuse_other_tasks(options: Mapping[str, Any], path: Path) -> None:
    name = _name(options)
    if not name.startswith(("wav2vec_ctc", *_FAMILIES)):
        raise CheckpointError(
            f"{path}: holds a model of type {name!r}; sewkit reads {', '.join(_FAMILIES)} and wav2vec_ctc"
        )


def _name(options: Mapping[str, Any]) -> str:
    return str(options.get("_name") or options.get("arch"))


def _without_prefix(tensors: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    short = {}
    for key, value in tensors.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: expected a tensor for {key}, found {type(value).__name__}")
        name = "proj." + key.removeprefix(HEAD_PREFIX) if key.startswith(HEAD_PREFIX) else key
        short[name.removeprefix(FINE_TUNED_PREFIX)] = value
    return short


def _options(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Options of the model, of the pre-trained one inside a fine-tuned one, of the loss; is input normalised."""
    stated = _as_dict(content.get("cfg")) or _as_dict(content.get("args"))
    if not stated:
        raise CheckpointError(f"{path}: not an original checkpoint: neither 'cfg' nor 'args' says how it was trained")
    model, task = _as_dict(stated.get("model")) or stated, _as_dict(stated.get("task")) or stated
    inner = _as_dict(model.get("w2v_args"))
    pretrained = (_as_dict(inner.get("model")) or inner) if inner else None
    normalize = task.get("normalize", model.get("normalize"))
    return {
        "model": model,
        "pretrained": pretrained,
        "criterion": _as_dict(stated.get("criterion")) or stated,
        "normalize": None if normalize is None else bool(normalize),
    }


def _as_dict(options: Any) -> dict[str, Any] | None:
    if isinstance(options, Record):
        return vars(options)
    return options if isinstance(options, dict) else None


# ---- options -> ModelConfig ----------------------------------------------------------------------------------------

_FIELDS = (
    ("conv_bias", "conv_bias", False),
    ("hidden_size", "encoder_embed_dim", 768),
    ("num_layers", "encoder_layers", 12),
    ("num_heads", "encoder_attention_heads", 12),
    ("ffn_size", "encoder_ffn_embed_dim", 3072),
    ("norm_first", "layer_norm_first", False),
    ("pos_conv_kernel", "conv_pos", 128),
    ("pos_conv_groups", "conv_pos_groups", 16),
    ("dropout.hidden", "dropout", 0.1),
    ("dropout.attention", "attention_dropout", 0.1),
    ("dropout.activation", "activation_dropout", 0.0),
    ("dropout.input", "dropout_input", 0.0),
    ("dropout.layerdrop", "encoder_layerdrop", 0.0),
    ("masking.time_prob", "mask_prob", 0.65),
    ("masking.time_length", "mask_length", 10),
    ("masking.channel_prob", "mask_channel_prob", 0.0),
    ("masking.channel_length", "mask_channel_length", 10),
)
"""(ours, fairseq's, the default of its class)."""

_SQUEEZED_FIELDS = (("squeeze_factor", "squeeze_factor", 2),)
_FAMILY_FIELDS: dict[Family, tuple[tuple[str, str, Any], ...]] = {
    "wav2vec2": (),
    "sew": _SQUEEZED_FIELDS,
    "sew-d": (
        *_SQUEEZED_FIELDS,
        ("position_buckets", "position_buckets", 256),
        ("max_positions", "max_position_embeddings", 512),
    ),
}
_FAMILIES: dict[str, Family] = {
    "wav2vec2": "wav2vec2",
    "squeeze_wav2vec2": "sew",
    "squeeze_wav2vec2_deberta": "sew-d",
}
_DEFAULT_CONV_LAYERS = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
_EXTRACTOR_NORMS = {"default": "group", "layer_norm": "layer"}

_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu",),
    "squeeze_method": ("default",),
    "feature_extractor_type": ("default",),
    "fbank_dim": (0,),
    "mfcc_dim": (0,),
    # SEW-D runs DeBERTa in one of its many modes.
    "norm_rel_ebd": ("layer_norm",),
    "position_biased_input": (False,),
    "pos_att_type": ("p2c|c2p", "c2p|p2c"),
    "relative_attention": (True,),
    "share_att_key": (True,),
    "cross_layer_param_share": (False,),
    # Of fairseq's later versions.
    "layer_type": ("transformer",),
    "pos_conv_depth": (1,),
    "conv_pos_batch_norm": (False,),
    "adp_num": (-1, 0),
}
"""Options that change what the encoder computes, with the values that we compute; an absent option has the first."""


def read_config(options: Mapping[str, Any], path: Path) -> ModelConfig:
    """Options of a pre-trained model -> ModelConfig. Raises CheckpointError, by name, for what we do not compute."""
    family = _family(options, path)
    for key, accepted in _ACCEPTED.items():
        if options.get(key, accepted[0]) not in accepted:
            raise CheckpointError(
                f"{path}: {key} is {options[key]!r}, which is not supported; expected {accepted[0]!r}"
            )
    mode = options.get("extractor_mode", "default")
    fields: dict[str, Any] = {
        "family": family,
        "conv_layers": parse_layers(options.get("conv_feature_layers") or _DEFAULT_CONV_LAYERS, path),
        "extractor_norm": _EXTRACTOR_NORMS.get(mode, mode),
    }
    for ours, theirs, default in _FIELDS + _FAMILY_FIELDS[family]:
        group, _, name = ours.rpartition(".")
        (fields.setdefault(group, {}) if group else fields)[name] = options.get(theirs, default)
    if options.get("max_relative_positions", -1) > 0:
        fields["max_positions"] = options["max_relative_positions"]
    if family == "sew-d":
        fields["layer_norm_eps"] = 1e-7  # fixed in DeBERTa's code
    return huggingface.validated(fields, path)


def _family(options: Mapping[str, Any], path: Path) -> Family:
    name = _name(options)
    if name.startswith("wav2vec2_"):  # architectures of the old layout, such as wav2vec2_base: presets of one class
        return "wav2vec2"
    if name not in _FAMILIES:
        raise CheckpointError(f"{path}: holds a model of type {name!r}; sewkit reads {', '.join(_FAMILIES)}")
    return _FAMILIES[name]


def _fine_tuning_settings(options: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Dropout and masking of the fine-tuning, where its options state them."""
    found: dict[str, dict[str, Any]] = {"dropout": {}, "masking": {}}
    for ours, theirs, _ in _FIELDS:
        group, _, name = ours.rpartition(".")
        theirs = "layerdrop" if theirs == "encoder_layerdrop" else theirs
        if group and theirs in options:
            found[group][name] = options[theirs]
    if "final_dropout" in options:
        found["dropout"]["final"] = options["final_dropout"]
    if not options.get("apply_mask", True):
        found["masking"].update(time_prob=0.0, channel_prob=0.0)
    return {group: {**getattr(config, group).model_dump(), **values} for group, values in found.items()}


def parse_layers(expression: str, path: Path) -> list[tuple[int, ...]]:
    """'[(512, 10, 5)] + [(512, 3, 2)] * 4' -> the list, without running it as Python.

    Lists and tuples of whole numbers, joined by + and repeated by *. Raises CheckpointError for anything else.
    """
    try:
        layers = _value(ast.parse(expression.strip(), mode="eval").body)
        if isinstance(layers, list) and all(isinstance(layer, tuple) and len(layer) == 3 for layer in layers):
            return layers
    except (AttributeError, SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        pass
    raise CheckpointError(
        f"{path}: conv_feature_layers is {str(expression)[:80]!r}; expected a list of (width, kernel, stride)"
    )


_MOST_LAYERS = 1000


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if any(isinstance(factor, int) and factor > _MOST_LAYERS for factor in (left, right)):
            raise ValueError("a list that long is an attack")
        return left * right
    raise ValueError("not a number, a list, a tuple, + or *")


# ---- an architecture given by the user -----------------------------------------------------------------------------


def read_architecture(architecture: str | os.PathLike[str]) -> ModelConfig:
    """A name in `PUBLISHED`, a .json or .yaml file of ModelConfig fields, or a pre-training .pt file."""
    name, path = os.fspath(architecture), Path(architecture).expanduser()
    if name in PUBLISHED:
        return PUBLISHED[name]
    if not path.is_file():
        near = near_names(name, tuple(PUBLISHED)) or list(PUBLISHED)
        raise CheckpointError(f"no architecture named {name!r}, and no such file; published ones: {', '.join(near)}")
    if path.suffix == ".json":
        return _read_fields(read_json(path), path)
    if path.suffix in (".yaml", ".yml"):
        try:
            return _read_fields(yaml.safe_load(path.read_text(encoding="utf-8")), path)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CheckpointError(f"{path}: cannot be read as YAML: {one_line(error)}") from error
    return read_original(path).config()


def _read_fields(fields: Any, path: Path) -> ModelConfig:
    if not isinstance(fields, dict):
        raise CheckpointError(f"{path}: expected ModelConfig fields by name, found {type(fields).__name__}")
    if "model_type" in fields:  # a config.json of transformers
        return huggingface.read_config(fields, set(), path)
    return huggingface.validated(fields, path)


# ---- letters -------------------------------------------------------------------------------------------------------


def read_dictionary(dictionary: Record, num_outputs: int, path: Path) -> Alphabet:
    """fairseq's Dictionary -> Alphabet: id 0, `<s>`, is the CTC blank.

    In transformers' spelling, which swaps the names of the ids 0 and 1: `<pad>` is the blank.
    """
    symbols = getattr(dictionary, "symbols", None)
    if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
        raise CheckpointError(f"{path}: its dictionary holds no list of symbols")
    if len(symbols) != num_outputs:
        raise CheckpointError(
            f"{path}: {len(symbols)} letters in its dictionary, but {num_outputs} outputs of its head"
        )
    swapped = {"<s>": "<pad>", "<pad>": "<s>"}
    tokens = tuple(swapped.get(symbol, symbol) if index < 2 else symbol for index, symbol in enumerate(symbols))
    # Dictionaries are padded to a round size with such words.
    special = {index for index, token in enumerate(tokens) if 0 < index < 4 or token.startswith("madeupword")}
    return Alphabet(tokens, blank=0, delimiter="|" if "|" in tokens else None, special=frozenset(special))


# ---- tensors -------------------------------------------------------------------------------------------------------

_PLAIN_HEADS: Rows = ((None, "project_q.{p}"), (None, "final_proj.{p}"))
_MLP_HEADS: Rows = tuple(
    (None, f"{head}.net.{{i}}.{leaf}")
    for head in ("project_q", "final_proj")
    for leaf in ("{p}", "running_mean", "running_var", "num_batches_tracked")
)
_SHARED_ROWS: Rows = (
    ("mask_embedding", "mask_emb"),
    ("features.blocks.{i}.conv.{p}", "feature_extractor.conv_layers.{i}.0.{p}"),
    ("feature_norm.{p}", "layer_norm.{p}"),
    ("projection.{p}", "post_extract_proj.{p}"),
    ("squeeze.position.bias", "encoder.pos_conv.0.bias"),
    ("squeeze.position.weight_g", "encoder.pos_conv.0.weight_g"),
    ("squeeze.position.weight_v", "encoder.pos_conv.0.weight_v"),
    ("head.{p}", "proj.{p}"),
    # Used in pre-training only.
    (None, "quantizer.vars"),
    (None, "quantizer.weight_proj.{p}"),
)
_NORM_ROWS: dict[str, Rows] = {
    "group": (("features.blocks.0.norm.{p}", "feature_extractor.conv_layers.0.2.{p}"),),
    "layer": (("features.blocks.{i}.norm.{p}", "feature_extractor.conv_layers.{i}.2.1.{p}"),),  # between two transposes
}
_PLAIN_ENCODER_ROWS: Rows = (
    ("encoder.norm.{p}", "encoder.layer_norm.{p}"),
    ("encoder.layers.{i}.attention.query.{p}", "encoder.layers.{i}.self_attn.q_proj.{p}"),
    ("encoder.layers.{i}.attention.key.{p}", "encoder.layers.{i}.self_attn.k_proj.{p}"),
    ("encoder.layers.{i}.attention.value.{p}", "encoder.layers.{i}.self_attn.v_proj.{p}"),
    ("encoder.layers.{i}.attention.output.{p}", "encoder.layers.{i}.self_attn.out_proj.{p}"),
    ("encoder.layers.{i}.attention_norm.{p}", "encoder.layers.{i}.self_attn_layer_norm.{p}"),
    ("encoder.layers.{i}.feed_forward.up.{p}", "encoder.layers.{i}.fc1.{p}"),
    ("encoder.layers.{i}.feed_forward.down.{p}", "encoder.layers.{i}.fc2.{p}"),
    ("encoder.layers.{i}.feed_forward_norm.{p}", "encoder.layers.{i}.final_layer_norm.{p}"),
)
_UPSAMPLE_ROWS: Rows = (("upsample.linear.{p}", "encoder.upsample.0.{p}"),)

_FAMILY_ROWS: dict[Family, Rows] = {
    "wav2vec2": (*_PLAIN_ENCODER_ROWS, *_PLAIN_HEADS),
    "sew": (*_PLAIN_ENCODER_ROWS, *_UPSAMPLE_ROWS, *_PLAIN_HEADS, *_MLP_HEADS),
    "sew-d": (*huggingface.DISENTANGLED_ENCODER_ROWS, *_UPSAMPLE_ROWS, *_PLAIN_HEADS, *_MLP_HEADS),
}


def keymap(config: ModelConfig) -> KeyMap:
    """Names without the prefix of fine-tuned models; their head is `proj`."""
    return KeyMap((*_SHARED_ROWS, *_NORM_ROWS[config.extractor_norm], *_FAMILY_ROWS[config.family]))

"""What pre-training adds to a model, from files: quantiser, heads and their settings, so that it can go on.

Read from original pre-training .pt files, from transformers' Wav2Vec2ForPreTraining (its SEW has no such class), and
from folders of ours, where `pretraining.safetensors` and `pretraining.json` stand beside the model. The names and
settings are those of `sewkit.objectives.contrastive`, which is built from them.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sewkit.checkpoint import hub, tokenizer
from sewkit.checkpoint.errors import CheckpointError, blaming
from sewkit.checkpoint.fairseq import read_original
from sewkit.checkpoint.keymap import KeyMap, Rows
from sewkit.checkpoint.loading import read_safetensors, read_weights

FORMAT_VERSION = 1
WEIGHTS, SETTINGS = "pretraining.safetensors", "pretraining.json"


@dataclass(frozen=True)
class PretrainingHeads:
    """settings: fields of ContrastiveSettings, those that the source states; tensors: float32, under our names."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def read_heads(source: str | os.PathLike[str]) -> PretrainingHeads:
    """The heads that a model was pre-trained with.

    source: an original .pt file, a folder that `save_heads` or transformers wrote, or a hub id.
    Raises CheckpointError where there are none.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return _read_original(path)
    if not path.is_dir() and hub.looks_like_id(os.fspath(source)):
        path = hub.download(os.fspath(source), _refuse_others)
    if (path / WEIGHTS).exists():
        return _read_ours(path)
    if not path.is_dir():
        raise hub.unknown_name(os.fspath(source))
    _refuse_others(path)
    return _read_transformers(path)


# ---- ours ----------------------------------------------------------------------------------------------------------


def save_heads(folder: str | os.PathLike[str], heads: PretrainingHeads) -> None:
    """Write heads into the folder of their model, each file under a temporary name first.

    Raises CheckpointError where they cannot be written.
    """
    folder = Path(folder).expanduser()
    settings = {"format_version": FORMAT_VERSION, "settings": heads.settings}
    tensors = {name: value.detach().cpu().contiguous() for name, value in heads.tensors.items()}
    drafts = {name: folder / f".{name}.{uuid.uuid4().hex[:8]}.part" for name in (WEIGHTS, SETTINGS)}
    try:
        tokenizer.write_json(drafts[SETTINGS], settings)
        save_file(tensors, drafts[WEIGHTS], metadata={"format": "pt"})
        drafts[WEIGHTS].chmod(drafts[SETTINGS].stat().st_mode)  # save_file's can be read by their owner only
        for name, draft in drafts.items():
            os.replace(draft, folder / name)
    except (OSError, SafetensorError) as error:  # a full disk comes as either
        raise CheckpointError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def _read_ours(folder: Path) -> PretrainingHeads:
    stated = tokenizer.read_json(folder / SETTINGS)
    with blaming(folder / SETTINGS):
        version, settings = int(stated["format_version"]), dict(stated["settings"])
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder / SETTINGS}: format version {version}, this sewkit reads up to {FORMAT_VERSION}; upgrade sewkit"
        )
    return PretrainingHeads(settings, read_safetensors(folder / WEIGHTS))


# ---- the original's ------------------------------------------------------------------------------------------------

_BATCH_NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def _mlp_rows(ours: str, theirs: str) -> Rows:
    """The original counts its layers: 0 and 3 are linear, written as convolutions of kernel 1, 1 is the batch norm."""
    return (
        (f"{ours}.up.weight", f"{theirs}.net.0.weight"),
        (f"{ours}.norm.{{p}}", f"{theirs}.net.1.{{p}}"),
        *((f"{ours}.norm.{leaf}", f"{theirs}.net.1.{leaf}") for leaf in _BATCH_NORM_BUFFERS),
        (f"{ours}.down.{{p}}", f"{theirs}.net.3.{{p}}"),
    )


_QUANTIZER_ROWS: Rows = (
    ("quantizer.codebook", "quantizer.vars"),
    ("quantizer.logits.{p}", "quantizer.weight_proj.{p}"),
)
ORIGINAL_KEYMAPS: dict[str, KeyMap] = {
    "linear": KeyMap((*_QUANTIZER_ROWS, ("target_head.{p}", "project_q.{p}"), ("context_head.{p}", "final_proj.{p}"))),
    "mlp": KeyMap((*_QUANTIZER_ROWS, *_mlp_rows("target_head", "project_q"), *_mlp_rows("context_head", "final_proj"))),
}
"""By the kind of the heads."""

_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "quantize_targets": (True,),
    "quantize_input": (False,),
    "same_quantizer": (False,),
    "target_glu": (False,),
    "negatives_from_everywhere": (False,),
    "cross_sample_negatives": (0,),
    "codebook_negatives": (0,),
    "quantizer_depth": (1,),
    # SEW's MLP heads in one of their modes.
    "mlp_version": ("v3",),
    "mlp_num_layers": (2,),
    "mlp_act_type": ("relu",),
    "proj_mlp_norm_type": ("bn",),
    "share_final_proj": (False,),
    "final_proj_momentum": (-1.0,),
}
"""Options that change what the objective computes, with the values that we compute."""


def _read_original(path: Path) -> PretrainingHeads:
    original = read_original(path)
    tensors = _heads_only(original.tensors, ("quantizer.", "project_q.", "final_proj."))
    if original.fine_tuned or not tensors:
        raise _no_heads(path)
    kind = "mlp" if "project_q.net.0.weight" in tensors else "linear"
    with blaming(path):
        settings = _original_settings(original.options["model"], original.options["criterion"], path)
        settings["heads"] = kind
        if kind == "mlp":
            settings["mlp_size"] = len(tensors["project_q.net.0.weight"])
        named = ORIGINAL_KEYMAPS[kind].read(tensors, path)
        return PretrainingHeads(settings, _in_our_shapes(named, settings))


def _original_settings(options: Mapping[str, Any], criterion: Mapping[str, Any], path: Path) -> dict[str, Any]:
    for key, accepted in _ACCEPTED.items():
        if options.get(key, accepted[0]) not in accepted:
            raise CheckpointError(
                f"{path}: {key} is {options[key]!r}, which pre-training does not support; expected {accepted[0]!r}"
            )
    final_dim = options.get("final_dim") or options.get("encoder_embed_dim", 768)
    weights = _numbers(criterion.get("loss_weights") or (0, 0))
    return {
        "groups": options.get("latent_groups", 2),
        "entries": options.get("latent_vars", 320),
        "vq_dim": options.get("latent_dim") or final_dim,
        "final_dim": final_dim,
        "num_negatives": options.get("num_negatives", 100),
        "logit_temperature": options.get("logit_temp", 0.1),
        "diversity_weight": weights[0],
        "feature_penalty_weight": weights[-1],  # one number stands for both
        "feature_grad_scale": options.get("feature_grad_mult", 1.0),
        "temperature": _numbers(options.get("latent_temp", (2, 0.5, 0.999995))),
        "dropout_features": options.get("dropout_features", 0.0),
    }


def _numbers(values: Any) -> list[float]:
    """Of a sequence, or of the text of one, as older files hold it."""
    return [float(value) for value in (values.strip("()[] ").split(",") if isinstance(values, str) else values)]


# ---- transformers' -------------------------------------------------------------------------------------------------

TRANSFORMERS_KEYMAP = KeyMap(
    (
        ("quantizer.codebook", "quantizer.codevectors"),
        ("quantizer.logits.{p}", "quantizer.weight_proj.{p}"),
        ("target_head.{p}", "project_q.{p}"),
        ("context_head.{p}", "project_hid.{p}"),
    )
)
_TRANSFORMERS_FIELDS = (
    ("groups", "num_codevector_groups", 2),
    ("entries", "num_codevectors_per_group", 320),
    ("vq_dim", "codevector_dim", 256),
    ("final_dim", "proj_codevector_dim", 256),
    ("num_negatives", "num_negatives", 100),
    ("logit_temperature", "contrastive_logits_temperature", 0.1),
    ("diversity_weight", "diversity_loss_weight", 0.1),
    ("dropout_features", "feat_quantizer_dropout", 0.0),
)
"""(ours, transformers', the default of its class)."""


def _read_transformers(folder: Path) -> PretrainingHeads:
    raw = tokenizer.read_json(folder / "config.json")
    file, tensors = read_weights(folder)
    tensors = _heads_only(tensors, ("quantizer.", "project_q.", "project_hid."))
    if not tensors:
        raise _no_heads(folder)
    # Without SEW's feature penalty and the scaling of the extractor's gradients, which transformers does not have.
    settings: dict[str, Any] = {"heads": "linear", "feature_penalty_weight": 0.0, "feature_grad_scale": 1.0}
    settings |= {ours: raw.get(theirs, default) for ours, theirs, default in _TRANSFORMERS_FIELDS}
    named = TRANSFORMERS_KEYMAP.read(tensors, file)
    with blaming(file):
        return PretrainingHeads(settings, _in_our_shapes(named, settings))


def _refuse_others(folder: Path) -> None:
    """Before gigabytes are downloaded: raise CheckpointError where config.json names a class without the heads."""
    architectures = tokenizer.read_json(folder / "config.json").get("architectures") or ["unknown"]
    if "Wav2Vec2ForPreTraining" not in architectures:
        raise _no_heads(folder)


# ---- shared --------------------------------------------------------------------------------------------------------


def _heads_only(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name.startswith(prefixes)}


def _in_our_shapes(named: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Code words (1, G V, D) -> (G, V, D), convolutions (out, in, 1) -> (out, in); what fits neither stays as it is."""
    shaped: dict[str, Tensor] = {}
    for name, value in named.items():
        if name == "quantizer.codebook" and value.dim() == 3 and value.shape[0] == 1:
            value = value[0].unflatten(0, (settings["groups"], settings["entries"]))
        elif name.endswith(("up.weight", "down.weight")) and value.dim() == 3 and value.shape[2] == 1:
            value = value[:, :, 0]
        # A copy: what was read may be mapped from a file.
        shaped[name] = value.detach().to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
    return shaped


def _no_heads(source: object) -> CheckpointError:
    return CheckpointError(
        f"{source}: holds no quantiser and heads of pre-training; expected an original pre-training .pt file, a folder "
        f"of Wav2Vec2ForPreTraining, or one with {WEIGHTS}; or start pre-training with new heads"
    )

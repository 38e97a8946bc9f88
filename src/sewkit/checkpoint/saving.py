"""Writing a model as a folder: config.json, model.safetensors, and the tokenizer's and preprocessor's files.

transformers loads it with AutoModelForCTC, AutoModelForSequenceClassification or AutoModel. What transformers has no
field for stands in config.json under "sewkit". A model that transformers has no class for is written with the model
type "sewkit" and our own names: transformers then refuses it by name, instead of computing something else.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sewkit.checkpoint import huggingface, tokenizer
from sewkit.checkpoint.errors import CheckpointError
from sewkit.checkpoint.exported import exported_only
from sewkit.checkpoint.huggingface import FORMAT_VERSION
from sewkit.checkpoint.loaded import LoadedModel
from sewkit.config import ModelConfig
from sewkit.curve import FILE_NAME as CURVE_FILE
from sewkit.model import SpeechModel
from sewkit.text import Alphabet

_OURS = ("config.json", "model.safetensors", *tokenizer.FILES, CURVE_FILE)
_OTHER_WEIGHTS = ("model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def save_model(
    folder: str | os.PathLike[str],
    model: SpeechModel,
    alphabet: Alphabet | None = None,
    labels: tuple[str, ...] | None = None,
    *,
    label_column: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a model with what its outputs mean; `dtype` is what its weights are stored as.

    `label_column` is the manifest column that `labels` were taken from, which `sewkit evaluate` compares with. See
    `save_loaded`.
    """
    save_loaded(folder, LoadedModel(model, alphabet, labels, label_column), dtype=dtype)


def new_folder(folder: str | os.PathLike[str]) -> Path:
    """The path of a folder to write. Raises CheckpointError where there is something already."""
    target = Path(folder).expanduser()
    if target.is_dir() and any(target.iterdir()):
        raise CheckpointError(f"{target}: exists and is not empty; give the name of a new folder")
    return target


def save_loaded(folder: str | os.PathLike[str], loaded: LoadedModel, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a model with all that came with it; `dtype` is what its weights are stored as.

    Everything is written beside `folder` first and then moved, so `folder` never holds half a file. In a folder that
    exists, a model of ours is replaced and other files are left alone.
    Raises CheckpointError where alphabet or labels do not fit the head, or the folder cannot be written.
    """
    folder = Path(folder).expanduser().absolute()
    if loaded.exported is not None:
        raise exported_only(loaded.exported)
    assert not loaded.shape_only, "see `with_weights`"
    _check_meaning(loaded)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; give the name of a folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.part")
        draft.mkdir()
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        _write(draft, loaded, dtype)
        _move(draft, folder)
    except (OSError, SafetensorError) as error:  # a full disk comes as either
        raise CheckpointError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _check_meaning(loaded: LoadedModel) -> None:
    config, alphabet, labels = loaded.model.config, loaded.alphabet, loaded.labels
    if alphabet is not None and len(alphabet) != config.vocab_size:
        raise CheckpointError(
            f"an alphabet of {len(alphabet)} tokens for a head of {config.vocab_size or 'no'} letters"
        )
    if labels is not None and len(labels) != config.num_labels:
        raise CheckpointError(f"{len(labels)} labels for a head of {config.num_labels or 'no'} classes")
    if loaded.label_column is not None and labels is None:
        raise CheckpointError(f"a label column, {loaded.label_column!r}, without labels; give the labels too")


def _write(draft: Path, loaded: LoadedModel, dtype: torch.dtype) -> None:
    config = loaded.model.config
    tensors: dict[str, Tensor] = {key: value.detach() for key, value in loaded.model.state_dict().items()}
    if huggingface.unknown_to_transformers(config) is None:
        raw = huggingface.write_config(config, loaded.alphabet, loaded.labels, dtype)
        tensors = huggingface.write_tensors(tensors, config)
        facts = _facts(config)
        if loaded.label_column is not None:
            facts["label_column"] = loaded.label_column
        raw["sewkit"] = facts
    else:
        raw = own_config(loaded)
    stored = {key: value.to("cpu", dtype).contiguous() for key, value in tensors.items()}
    # Older versions of transformers refuse a file that does not say "pt".
    save_file(stored, draft / "model.safetensors", metadata={"format": "pt"})
    write_meaning(draft, loaded, raw)
    # save_file makes files that only their owner may read.
    shutil.copymode(draft / "config.json", draft / "model.safetensors")


def own_config(loaded: LoadedModel) -> dict[str, Any]:
    """config.json of a model that transformers has no class for."""
    config = loaded.model.config
    raw = huggingface.write_config(config, loaded.alphabet, loaded.labels, torch.float32)
    meaning: dict[str, Any] = {key: raw[key] for key in ("pad_token_id", "id2label", "label2id") if key in raw}
    facts: dict[str, Any] = {"format_version": FORMAT_VERSION, "config": config.model_dump(mode="json")}
    if loaded.label_column is not None:
        facts["label_column"] = loaded.label_column
    return {"model_type": "sewkit", **meaning, "sewkit": facts}


def write_meaning(folder: Path, loaded: LoadedModel, raw: dict[str, Any]) -> None:
    """All files of a model's folder but the weights; `raw` is its config.json."""
    tokenizer.write_json(folder / "config.json", raw)
    tokenizer.write_preprocessor(folder, loaded.model.config)
    if loaded.curve is not None:
        loaded.curve.write(folder)
    if loaded.alphabet is not None:
        tokenizer.write_alphabet(folder, loaded.alphabet)


def _facts(config: ModelConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "input_norm_eps": config.input_norm_eps,
        "normalize_input": config.normalize_input,
    }
    if not config.project_features and config.family == "wav2vec2":
        facts["project_features"] = False  # the identity in the file stands for nothing
    return facts


def _move(draft: Path, folder: Path) -> None:
    if not folder.exists():
        draft.rename(folder)
        return
    written = {path.name for path in draft.iterdir()}
    for name in sorted(written):
        os.replace(draft / name, folder / name)
    for name in {*_OURS, *_OTHER_WEIGHTS} - written:
        (folder / name).unlink(missing_ok=True)  # of the model that was here before

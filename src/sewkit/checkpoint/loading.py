"""One way in for every kind of model: hub id, folder, original .pt file, bundled name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sewkit.checkpoint import fairseq, hub, huggingface, tokenizer
from sewkit.checkpoint.errors import CheckpointError, blaming
from sewkit.checkpoint.exported import exported_only, read_exported
from sewkit.checkpoint.huggingface import FORMAT_VERSION
from sewkit.checkpoint.keymap import fill_model
from sewkit.checkpoint.loaded import LoadedModel, weights_stamp
from sewkit.checkpoint.saving import new_folder, save_loaded
from sewkit.checkpoint.unpickle import load_torch_file
from sewkit.compute import Compute
from sewkit.config import ModelConfig
from sewkit.curve import read_curve
from sewkit.model import SpeechModel, build_shape
from sewkit.model.stochastic import specialise

BUNDLED = Path(__file__).parent.parent / "models"


def bundled_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.parent.name for path in BUNDLED.glob("*/config.json")))


def load_model(
    source: str | os.PathLike[str], architecture: str | os.PathLike[str] | None = None, *, exported: bool = False
) -> LoadedModel:
    """Read a model.

    source: a hub id such as "asapp/sew-tiny-100k-ft-ls100h", a folder that transformers or `save_model` wrote, an
        original .pt file of fairseq or SEW, or the name of a bundled model. What exists on disk wins.
    architecture: for a fine-tuned .pt file, which often lacks it: a name in `PUBLISHED`, a .json or .yaml file of
        ModelConfig fields, or the pre-training .pt file of the same model.
    exported: whether a folder of `sewkit export` will do, of which only the shape of the model is read.

    Raises CheckpointError, one line with file, problem and remedy.
    """
    loaded = _load(source, architecture)
    if loaded.exported is not None and not exported:
        raise exported_only(loaded.exported)
    return loaded


def _load(source: str | os.PathLike[str], architecture: str | os.PathLike[str] | None) -> LoadedModel:
    name, path = os.fspath(source), Path(source).expanduser()
    if path.is_file() and path.suffix in (".json", ".safetensors"):
        raise CheckpointError(f"{name}: one file of a model's folder; give the folder, {path.parent}")
    if path.is_file():
        return fairseq.load_original(path, architecture)
    if architecture is not None:
        if path.suffix == ".pt" and not path.exists():
            raise CheckpointError(f"{name}: no such file; check the path")
        raise CheckpointError(f"{name}: an architecture is given for original .pt files only; this is not such a file")
    if path.is_dir():
        folder = path
    elif name in bundled_models():
        folder = BUNDLED / name
    elif hub.looks_like_id(name) and path.suffix not in (".pt", ".bin", ".safetensors"):
        folder = hub.download(name, _refuse_early)
    else:
        raise hub.unknown_name(name, bundled_models())
    return replace(load_folder(folder), folder=folder)


def with_weights(loaded: LoadedModel) -> LoadedModel:
    """The same with its weights, read again from its folder where it came without.

    Raises CheckpointError where they are no longer there or no longer the same, or it is an exported model.
    """
    if not loaded.shape_only:
        return loaded
    if loaded.exported is not None:
        raise exported_only(loaded.exported)
    assert loaded.folder is not None
    if weights_stamp(loaded.folder) != loaded.stamp:
        raise CheckpointError(f"{loaded.folder}: holds another model than the one that was loaded; load it again")
    return replace(loaded, model=load_folder(loaded.folder).model, shape_only=False)


def _refuse_early(folder: Path) -> None:
    """Before gigabytes are downloaded: raise CheckpointError if config.json says that the model is not supported."""
    config_file = folder / "config.json"
    if config_file.exists() and (raw := tokenizer.read_json(config_file)).get("model_type") != "sewkit":
        with blaming(config_file):
            huggingface.read_config(raw, set(), config_file)


def load_folder(folder: Path) -> LoadedModel:
    """A folder with config.json, weights, and for CTC the tokenizer's files."""
    config_file = folder / "config.json"
    if not config_file.exists():
        raise CheckpointError(f"{folder}: no config.json; a model's folder holds config.json and model.safetensors")
    raw = tokenizer.read_json(config_file)
    facts = _our_facts(raw, config_file)
    if "export" in facts:
        return _exported_folder(folder, raw, facts)
    weights_file, tensors = read_weights(folder)
    if raw.get("model_type") == "sewkit":
        with blaming(config_file):
            config = huggingface.validated(facts["config"], config_file)
        model = fill_model(config, tensors, weights_file)
    else:
        model = _from_transformers(folder, raw, facts, tensors, weights_file)
    return replace(_with_meaning(folder, raw, facts, model), curve=read_curve(folder, model.config))


def _exported_folder(folder: Path, raw: Mapping[str, Any], facts: Mapping[str, Any]) -> LoadedModel:
    with blaming(folder / "config.json"):
        config = huggingface.validated(facts["config"], folder / "config.json")
    exported = read_exported(folder, facts["export"], config)
    loaded = _with_meaning(folder, raw, facts, build_shape(config))
    return replace(loaded, curve=read_curve(folder, config), exported=exported, shape_only=True)


def _our_facts(raw: Mapping[str, Any], config_file: Path) -> dict[str, Any]:
    """What we noted in config.json and transformers has no field for; {} in files of others."""
    facts = raw.get("sewkit") or {}
    with blaming(config_file):
        version = int(facts.get("format_version", FORMAT_VERSION))
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{config_file}: format version {version}, this sewkit reads up to {FORMAT_VERSION}; upgrade sewkit"
        )
    return facts


def _from_transformers(
    folder: Path, raw: Mapping[str, Any], facts: Mapping[str, Any], tensors: dict[str, Tensor], weights_file: Path
) -> SpeechModel:
    with blaming(folder / "config.json"):
        config = huggingface.read_config(raw, set(tensors), folder / "config.json")
        normalize = tokenizer.read_normalize(folder)
        if normalize is None:
            normalize = facts.get("normalize_input", True)  # True: the default of their feature extractor
        config = config.replace(
            normalize_input=normalize,
            input_norm_eps=facts.get("input_norm_eps", 1e-7),
            project_features=config.project_features,
        )
    named = huggingface.read_tensors(tensors, config.family, weights_file)
    if facts.get("project_features") is False and _is_identity(named):
        config = config.replace(project_features=False)
        named = {key: value for key, value in named.items() if not key.startswith("projection.")}
    return fill_model(config, named, weights_file, huggingface.KEYMAPS[config.family])


def _is_identity(named: Mapping[str, Tensor]) -> bool:
    """Whether the projection that we added for transformers is still as we wrote it, not trained since."""
    weight, bias = named.get("projection.weight"), named.get("projection.bias")
    if weight is None or bias is None:
        return False
    return torch.equal(weight.float(), torch.eye(len(weight), device=weight.device)) and not bias.any()


def _with_meaning(folder: Path, raw: Mapping[str, Any], facts: Mapping[str, Any], model: SpeechModel) -> LoadedModel:
    config: ModelConfig = model.config
    with blaming(folder):
        if config.vocab_size is not None:
            return LoadedModel(model, tokenizer.read_alphabet(folder, config.vocab_size, raw.get("pad_token_id", 0)))
        if config.num_labels is None:
            return LoadedModel(model)
        return LoadedModel(model, labels=huggingface.read_labels(raw), label_column=_label_column(facts))


def _label_column(facts: Mapping[str, Any]) -> str | None:
    column = facts.get("label_column")
    if column is not None and not isinstance(column, str):
        raise ValueError(f"label_column is {column!r}, expected a name")
    return column


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """All tensors of a folder and the file (or index) that led to them; safetensors before .bin, one file or shards."""
    for stem, read in (("model.safetensors", read_safetensors), ("pytorch_model.bin", _read_bin)):
        if (folder / stem).exists():
            return folder / stem, read(folder / stem)
        index = folder / f"{stem}.index.json"
        if index.exists():
            tensors: dict[str, Tensor] = {}
            for shard in _shards(index):
                tensors.update(read(shard))
            return index, tensors
    raise CheckpointError(f"{folder}: no weights; expected model.safetensors or pytorch_model.bin, whole or in shards")


def _shards(index: Path) -> list[Path]:
    names = sorted(set((tokenizer.read_json(index).get("weight_map") or {}).values()))
    shards = [index.parent / Path(name).name for name in names]  # never out of the folder
    if missing := [shard.name for shard in shards if not shard.exists()]:
        raise CheckpointError(f"{index}: shards missing: {', '.join(missing)}")
    return shards


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file. Raises CheckpointError for a damaged one."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or truncated ({error}); download it again") from error


def _read_bin(path: Path) -> dict[str, Tensor]:
    tensors = load_torch_file(path)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path}: expected a dict of tensors by name, found something else")
    return dict(tensors)


def convert(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    architecture: str | os.PathLike[str] | None = None,
    *,
    compute: Compute | str | None = None,
    half: bool = False,
) -> LoadedModel:
    """Read a model of any kind and write it to a new folder that transformers loads; gives back what was written.

    compute: of a stochastic model, write one operating point only; without pooling that is a plain SEW or SEW-D.
    half: store the weights in half precision. Raises UserError; then nothing has been written.
    """
    target = new_folder(folder)
    loaded = load_model(source, architecture)
    if compute is not None:
        loaded = replace(loaded, model=specialise(loaded.model, loaded.resolve(compute)), curve=None)
    dtype = torch.float16 if half else torch.float32
    save_loaded(target, loaded, dtype=dtype)
    return loaded

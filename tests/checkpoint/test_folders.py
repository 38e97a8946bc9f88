"""Folders: every form that is read, what is written and how, and one clear error for what is broken."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sewkit.checkpoint import CheckpointError, LoadedModel, bundled_models, convert, load_model, loading, save_model
from sewkit.model import SpeechModel
from sewkit.testing import TOYS, toy_model
from sewkit.text import Alphabet

ENGLISH = Alphabet.english()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved toy SEW with English letters."""
    save_model(tmp_path / "saved", toy_model("sew"), ENGLISH)
    return tmp_path / "saved"


def assert_equal_models(one: SpeechModel, other: SpeechModel) -> None:
    assert one.config == other.config
    state = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def rewrite(folder: Path, change, name: str = "model.safetensors") -> None:
    """Change the tensors of a saved folder."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors = change(tensors)
    save_file(tensors, folder / name) if name.endswith("safetensors") else torch.save(tensors, folder / name)


# ---- what is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_round_trip_is_exact(name: str, tmp_path: Path) -> None:
    model = toy_model(TOYS[name].replace(input_norm_eps=1e-5))
    save_model(tmp_path / "m", model, ENGLISH)
    loaded = load_model(tmp_path / "m")
    assert_equal_models(model, loaded.model)
    assert (loaded.alphabet, loaded.labels) == (ENGLISH, None)


def test_round_trip_of_bare_encoders_and_classifiers_is_exact(tmp_path: Path) -> None:
    bare = toy_model(TOYS["sew-d"].replace(vocab_size=None))
    save_model(tmp_path / "bare", bare)
    assert_equal_models(bare, load_model(tmp_path / "bare").model)
    classifier = toy_model(TOYS["w2v2"].replace(vocab_size=None, num_labels=2, weighted_layer_sum=True))
    save_model(tmp_path / "classifier", classifier, labels=("left", "right"))
    loaded = load_model(tmp_path / "classifier")
    assert_equal_models(classifier, loaded.model)
    assert (loaded.alphabet, loaded.labels) == (None, ("left", "right"))


def test_without_masking_the_mask_vector_is_left_out(tmp_path: Path) -> None:
    model = toy_model(TOYS["sew"].replace(masking={"time_prob": 0, "channel_prob": 0}))
    save_model(tmp_path / "m", model, ENGLISH)
    assert "sew.masked_spec_embed" not in load_file(tmp_path / "m/model.safetensors")
    assert load_model(tmp_path / "m").model.config == model.config


@pytest.mark.parametrize("name", ["sew", "sew-d", "w2v2"])
def test_tensors_with_and_without_the_prefix_of_the_encoder(name: str, tmp_path: Path) -> None:
    model, prefix = toy_model(name), {"sew": "sew.", "sew-d": "sew_d.", "w2v2": "wav2vec2."}[name]
    save_model(tmp_path / "m", model, ENGLISH)
    assert all(key.startswith((prefix, "lm_head.")) for key in load_file(tmp_path / "m/model.safetensors"))
    rewrite(tmp_path / "m", lambda tensors: {key.removeprefix(prefix): value for key, value in tensors.items()})
    assert_equal_models(model, load_model(tmp_path / "m").model)


def test_parametrised_weight_norm(saved: Path) -> None:
    spelled = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}

    def respell(tensors: dict) -> dict:
        return {
            ".".join([*key.split(".")[:-1], spelled.get(key.split(".")[-1], key.split(".")[-1])]): value
            for key, value in tensors.items()
        }

    rewrite(saved, respell)
    assert "sew.encoder.pos_conv_embed.conv.parametrizations.weight.original0" in load_file(saved / "model.safetensors")
    assert_equal_models(toy_model("sew"), load_model(saved).model)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("half", [False, True])
def test_either_kind_of_weights_in_either_precision(saved: Path, name: str, half: bool) -> None:
    rewrite(saved, lambda tensors: {key: value.half() if half else value for key, value in tensors.items()}, name)
    model, expected = load_model(saved).model, toy_model("sew")
    weight = expected.head.weight.half().float() if half else expected.head.weight
    assert torch.equal(model.head.weight, weight)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_shards(saved: Path, name: str) -> None:
    tensors = load_file(saved / "model.safetensors")
    (saved / "model.safetensors").unlink()
    stem, suffix = name.split(".")
    shards = {f"{stem}-0000{part + 1}-of-00002.{suffix}": sorted(tensors)[part::2] for part in range(2)}
    for shard, keys in shards.items():
        part = {key: tensors[key] for key in keys}
        save_file(part, saved / shard) if suffix == "safetensors" else torch.save(part, saved / shard)
    weight_map = {key: shard for shard, keys in shards.items() for key in keys}
    (saved / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_equal_models(toy_model("sew"), load_model(saved).model)
    (saved / next(iter(shards))).unlink()
    with pytest.raises(CheckpointError, match=r"index\.json: shards missing: .*-00001-of-00002"):
        load_model(saved)


def test_an_index_cannot_lead_out_of_its_folder(saved: Path, tmp_path: Path) -> None:
    (saved / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"a": "../elsewhere.safetensors"}}
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="shards missing"):
        load_model(saved)


def test_a_model_transformers_has_no_class_for_is_its_own_type(tmp_path: Path) -> None:
    """A pre-norm SEW as "sew" would load in transformers, and compute something else."""
    for number, changes in enumerate(({"norm_first": True}, {"project_features": True}, {"feature_norm_eps": 1e-3})):
        model = toy_model(TOYS["sew"].replace(**changes))
        save_model(tmp_path / str(number), model, ENGLISH)
        assert json.loads((tmp_path / str(number) / "config.json").read_text())["model_type"] == "sewkit"
        loaded = load_model(tmp_path / str(number))
        assert_equal_models(model, loaded.model)
        assert loaded.alphabet == ENGLISH


def test_our_own_type_without_its_configuration_is_an_error(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy_model(TOYS["sew"].replace(norm_first=True)), ENGLISH)
    raw = json.loads((tmp_path / "m/config.json").read_text())
    for facts in ({}, {"config": []}, {"config": {"family": "sew"}}):
        (tmp_path / "m/config.json").write_text(json.dumps({**raw, "sewkit": facts}))
        broken(tmp_path / "m", r"config\.json: (malformed|not a valid)")


def test_bundled_models_are_loaded_by_name(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setattr(loading, "BUNDLED", saved.parent)
    assert bundled_models() == ("saved",)
    assert_equal_models(toy_model("sew"), load_model("saved").model)


# ---- what is written ---------------------------------------------------------------------------------------------


def test_saving_leaves_nothing_beside_the_folder(saved: Path) -> None:
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.json",
    ]


def test_saving_again_replaces_the_model_and_keeps_other_files(saved: Path) -> None:
    (saved / "notes.txt").write_text("mine")
    (saved / "pytorch_model.bin").write_text("of another model")
    bare = toy_model(TOYS["sew-d"].replace(vocab_size=None))
    save_model(saved, bare)
    assert_equal_models(bare, load_model(saved).model)
    assert sorted(path.name for path in saved.iterdir()) == [
        "config.json",
        "model.safetensors",
        "notes.txt",
        "preprocessor_config.json",
    ]


def test_a_failure_while_writing_leaves_the_old_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sewkit.checkpoint.saving.save_file", full_disk)
    for folder in (saved, saved.parent / "new"):
        with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
            save_model(folder, toy_model("sew", seed=1), ENGLISH)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    assert_equal_models(toy_model("sew"), load_model(saved).model)


def test_an_alphabet_or_labels_that_do_not_fit_the_head_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="an alphabet of 2 tokens for a head of 32 letters"):
        save_model(tmp_path / "m", toy_model("sew"), Alphabet(("<pad>", "a")))
    with pytest.raises(CheckpointError, match="2 labels for a head of no classes"):
        save_model(tmp_path / "m", toy_model("sew"), labels=("a", "b"))
    assert not (tmp_path / "m").exists()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("")
    with pytest.raises(CheckpointError, match="is a file; give the name of a folder"):
        save_model(tmp_path / "m", toy_model("sew"))
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_model(tmp_path / "m" / "below", toy_model("sew"))


def test_the_working_directory_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(".", toy_model("sew"), ENGLISH)
    assert_equal_models(toy_model("sew"), load_model(".").model)


def test_a_loaded_model_brings_its_own_meaning(saved: Path, tmp_path: Path) -> None:
    loaded = load_model(saved)
    assert isinstance(loaded, LoadedModel)
    save_model(tmp_path / "again", loaded.model, loaded.alphabet, loaded.labels)
    assert load_model(tmp_path / "again").alphabet == ENGLISH


def test_convert_reads_and_writes_and_stores_half_precision_on_request(saved: Path, tmp_path: Path) -> None:
    assert_equal_models(toy_model("sew"), convert(saved, tmp_path / "full").model)
    assert_equal_models(toy_model("sew"), load_model(tmp_path / "full").model)
    convert(saved, tmp_path / "half", half=True)
    assert {value.dtype for value in load_file(tmp_path / "half/model.safetensors").values()} == {torch.float16}
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        convert(saved, tmp_path / "half")


def test_saved_folders_are_as_readable_as_any_other(saved: Path) -> None:
    plain = saved.parent / "plain"
    plain.mkdir()
    (plain / "file").write_text("")
    assert saved.stat().st_mode == plain.stat().st_mode
    for path in saved.iterdir():
        assert os.stat(path).st_mode == (plain / "file").stat().st_mode, path.name


# ---- what is broken ----------------------------------------------------------------------------------------------


def broken(saved: Path, message: str) -> None:
    """Loading and converting fail in one line, and converting writes nothing."""
    target = saved.parent / "converted"
    for call in (lambda: load_model(saved), lambda: convert(saved, target)):
        with pytest.raises(CheckpointError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize("content", ["", "{", "not json", "[]", "\udcff"])
def test_a_damaged_config(saved: Path, content: str) -> None:
    (saved / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    broken(saved, r"config\.json: ")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_weights(saved: Path, name: str, damage: str) -> None:
    rewrite(saved, lambda tensors: tensors, name)
    content = (saved / name).read_bytes()
    damaged = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"<html>404</html>" * 99}[damage]
    (saved / name).write_bytes(damaged)
    broken(saved, rf"{name}: .*download it again")


def test_missing_files(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    broken(saved, "no weights; expected model.safetensors or pytorch_model.bin")
    (saved / "config.json").unlink()
    broken(saved, r"no config\.json")


def test_wrong_shapes_missing_and_left_over_tensors(saved: Path) -> None:
    def damage(tensors: dict) -> dict:
        tensors["lm_head.bias"] = torch.zeros(7)
        del tensors["sew.layer_norm.weight"]
        return tensors

    rewrite(saved, damage)
    wrong = r"1 shape \(lm_head.bias: expected \(32,\), found \(7,\)\) wrong"
    broken(saved, r"1 tensor \(layer_norm.weight\) missing; " + wrong)


def test_unknown_tensors(saved: Path) -> None:
    rewrite(saved, lambda tensors: {**tensors, "sew.adapter.layers.0.conv.weight": torch.zeros(1)})
    broken(saved, r"1 tensor \(adapter.layers.0.conv.weight\) that this kind of model does not have")


def test_the_same_tensor_with_and_without_prefix(saved: Path) -> None:
    rewrite(saved, lambda tensors: {**tensors, "layer_norm.bias": tensors["sew.layer_norm.bias"].clone()})
    broken(saved, "appear twice, with and without the prefix sew.")


def test_weights_that_are_no_tensors(saved: Path) -> None:
    rewrite(saved, lambda tensors: {"state": tensors}, "pytorch_model.bin")
    broken(saved, "expected a dict of tensors by name")


def test_a_format_of_the_future(saved: Path) -> None:
    raw = json.loads((saved / "config.json").read_text())
    raw["sewkit"]["format_version"] = 99
    (saved / "config.json").write_text(json.dumps(raw))
    broken(saved, "format version 99, this sewkit reads up to 1; upgrade sewkit")


def test_an_architecture_is_for_original_files_only(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="an architecture is given for original"):
        load_model(saved, "sew-tiny")

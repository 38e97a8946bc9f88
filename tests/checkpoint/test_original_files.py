"""Original .pt files, built here as fairseq and SEW write them; the real ones are read in `tests/golden`.

Hostile and damaged files, options and their class defaults, architectures that are inferred, given, missing, wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sewkit.checkpoint import CheckpointError, convert, fairseq, load_model
from sewkit.checkpoint.unpickle import Record, load_torch_file
from sewkit.config import PUBLISHED, ModelConfig
from sewkit.model import SpeechModel
from sewkit.testing import TOYS, toy_model
from sewkit.text import Alphabet

NAMES = {"wav2vec2": "wav2vec2", "sew": "squeeze_wav2vec2", "sew-d": "squeeze_wav2vec2_deberta"}


def original_options(config: ModelConfig) -> dict[str, Any]:
    """Options as SEW's scripts set them: everything else is left to class defaults."""
    options: dict[str, Any] = {
        "_name": NAMES[config.family],
        "encoder_embed_dim": config.hidden_size,
        "encoder_layers": config.num_layers,
        "encoder_ffn_embed_dim": config.ffn_size,
        "encoder_attention_heads": config.num_heads,
        "conv_feature_layers": str(list(config.conv_layers)),
        "conv_pos": config.pos_conv_kernel,
        "conv_pos_groups": config.pos_conv_groups,
        "squeeze_factor": config.squeeze_factor,
        "extractor_mode": {"group": "default", "layer": "layer_norm"}[config.extractor_norm],
        "conv_bias": config.conv_bias,
        "layer_norm_first": config.norm_first,
        "position_buckets": config.position_buckets,
        "max_position_embeddings": config.max_positions,
        "dropout_input": 0.1,
        "encoder_layerdrop": 0.05,
    }
    return options


def original_tensors(model: SpeechModel, prefix: str = "") -> dict[str, torch.Tensor]:
    keymap = fairseq.keymap(model.config)
    renamed = {keymap.theirs(key): value for key, value in model.state_dict().items()}
    if not prefix:
        return renamed
    return {("w2v_encoder." if key.startswith("proj.") else prefix) + key: value for key, value in renamed.items()}


def original_model(name: str, head: bool) -> SpeechModel:
    """A toy as the original can hold it: it projects only where widths differ."""
    config = TOYS[name].replace(input_norm_eps=1e-5, vocab_size=32 if head else None)
    return toy_model(config.replace(hidden_size=config.hidden_size))


def pretrained(path: Path, name: str = "sew") -> SpeechModel:
    model = original_model(name, head=False)
    cfg = {"model": original_options(model.config), "task": {"normalize": model.config.normalize_input}}
    torch.save({"args": None, "cfg": cfg, "model": original_tensors(model), "last_optimizer_state": {}}, path)
    return model


def fine_tuned(path: Path, name: str = "sew", states_architecture: bool = False, **task: Any) -> SpeechModel:
    model = original_model(name, head=True)
    options = {"_name": "wav2vec_ctc", "final_dropout": 0.25, "mask_prob": 0.5, "layerdrop": 0.3, "dropout": 0.0}
    if states_architecture:
        options["w2v_args"] = {"model": original_options(model.config), "task": {"normalize": False}}
    cfg = {"model": options, "task": {"normalize": model.config.normalize_input, **task}}
    tensors = original_tensors(model, "w2v_encoder.w2v_model.")
    torch.save({"args": None, "cfg": cfg, "model": tensors, "task_state": {}}, path)
    return model


def assert_equal_tensors(one: SpeechModel, other: SpeechModel) -> None:
    state = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def architecture_of(config: ModelConfig) -> dict[str, Any]:
    """Without head, dropout and masking, and what a pre-trained model has no say in."""
    return config.model_dump(exclude={"vocab_size", "dropout", "masking", "normalize_input"})


ASSUMED = pytest.mark.filterwarnings("ignore:.*assuming the 32 English letters")


# ---- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_pre_trained_files_of_every_family(name: str, tmp_path: Path) -> None:
    model = pretrained(tmp_path / "m.pt", name)
    loaded = load_model(tmp_path / "m.pt")
    assert_equal_tensors(model, loaded.model)
    assert architecture_of(loaded.model.config) == architecture_of(model.config)
    assert loaded.model.config.normalize_input == model.config.normalize_input
    assert loaded.alphabet is None


@ASSUMED
@pytest.mark.parametrize("name", TOYS)
def test_fine_tuned_files_of_every_family(name: str, tmp_path: Path) -> None:
    model = fine_tuned(tmp_path / "m.pt", name, states_architecture=True)
    loaded = load_model(tmp_path / "m.pt")
    assert_equal_tensors(model, loaded.model)
    assert architecture_of(loaded.model.config) == architecture_of(model.config)
    assert loaded.model.config.normalize_input == model.config.normalize_input
    assert loaded.alphabet == Alphabet.english()


@ASSUMED
def test_dropout_and_masking_are_those_of_the_fine_tuning(tmp_path: Path) -> None:
    fine_tuned(tmp_path / "m.pt", states_architecture=True)
    config = load_model(tmp_path / "m.pt").model.config
    assert (config.dropout.final, config.dropout.layerdrop, config.dropout.hidden) == (0.25, 0.3, 0)
    assert (config.dropout.input, config.dropout.attention) == (0.1, 0.1)  # of the pre-training: not stated again
    assert config.masking.time_prob == 0.5


def test_the_model_does_not_need_the_file_any_more(tmp_path: Path) -> None:
    """Tensors are mapped while they are read; the model must not be."""
    model = pretrained(tmp_path / "m.pt")
    loaded = load_model(tmp_path / "m.pt").model
    (tmp_path / "m.pt").write_bytes(b"\0" * (tmp_path / "m.pt").stat().st_size)
    assert_equal_tensors(model, loaded)


def test_files_older_than_the_zip_format(tmp_path: Path) -> None:
    model = pretrained(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    content["cfg"], content["args"] = (
        None,
        argparse.Namespace(arch="wav2vec2", **content["cfg"]["model"], normalize=False),
    )
    torch.save(content, tmp_path / "m.pt", _use_new_zipfile_serialization=False)
    assert_equal_tensors(model, load_model(tmp_path / "m.pt").model)


def test_class_defaults_stand_for_what_a_file_does_not_say() -> None:
    config = fairseq.read_config({"_name": "squeeze_wav2vec2_deberta", "encoder_attention_heads": 12}, Path("m.pt"))
    assert config.conv_layers == PUBLISHED["w2v2-base"].conv_layers
    assert (config.squeeze_factor, config.position_buckets, config.max_positions) == (2, 256, 512)
    assert (config.extractor_norm, config.norm_first, config.conv_bias) == ("group", False, False)
    assert (config.hidden_size, config.num_layers, config.ffn_size) == (768, 12, 3072)
    assert (config.dropout.hidden, config.dropout.attention, config.dropout.activation) == (0.1, 0.1, 0.0)
    assert config.layer_norm_eps == 1e-7


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_written_as_options_are_read_as_themselves(name: str) -> None:
    found = fairseq.read_config(original_options(PUBLISHED[name]), Path("m.pt"))
    assert architecture_of(found) == architecture_of(PUBLISHED[name])


def test_letters_come_from_the_dictionary_in_the_file() -> None:
    record = Record()
    record.symbols = ["<s>", "<pad>", "</s>", "<unk>", "|", "Ä", "madeupword0000"]  # type: ignore[attr-defined]
    found = fairseq.read_dictionary(record, 7, Path("m.pt"))
    assert found == Alphabet(
        ("<pad>", "<s>", "</s>", "<unk>", "|", "Ä", "madeupword0000"), 0, "|", frozenset((1, 2, 3, 6))
    )
    with pytest.raises(CheckpointError, match=r"m.pt: 7 letters in its dictionary, but 8 outputs of its head"):
        fairseq.read_dictionary(record, 8, Path("m.pt"))
    with pytest.raises(CheckpointError, match="no list of symbols"):
        fairseq.read_dictionary(Record(), 8, Path("m.pt"))


# ---- the list of convolutions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "layers"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]", list(PUBLISHED["w2v2-base"].conv_layers)),
        ("[(8, 10, 5), (16, 3, 2)] + 2 * [(16, 1, 1)]", [(8, 10, 5), (16, 3, 2), (16, 1, 1), (16, 1, 1)]),
        ("[(8,10,5)] + [(16, 1, 1)] * 0", [(8, 10, 5)]),
    ],
)
def test_layer_expressions(expression: str, layers: list) -> None:
    assert fairseq.parse_layers(expression, Path("m.pt")) == layers


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "[(512, 10, 5)] * 10**9",
        "[(512, 10, 5)] * 9999999999",
        "[[0] * 999] * 999",
        "[(1, 1, 1)] + 1",
        "[(512, 10)]",
        "[x for x in (1, 2)]",
        "[(512, 10, 'a')]",
        "[(True, 1, 1)]",
        "(512, 10, 5)",
        "(" * 500,
        "",
        "[",
    ],
)
def test_anything_else_is_not_run_but_refused(expression: str) -> None:
    with pytest.raises(CheckpointError, match=r"m.pt: conv_feature_layers is .*expected a list of"):
        fairseq.parse_layers(expression, Path("m.pt"))


# ---- the architecture of fine-tuned files ------------------------------------------------------------------------


def test_a_missing_architecture_says_what_is_known_what_is_not_and_what_to_pass(tmp_path: Path) -> None:
    fine_tuned(tmp_path / "m.pt", "sew-s3")
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "m.pt")
    message = str(caught.value)
    assert "the file does not state its architecture" in message
    assert "family sew, hidden_size 32, num_layers 2, ffn_size 48" in message
    assert "squeeze_factor 3" in message
    assert "They do not tell: num_heads, strides, norm_first, max_positions" in message
    assert "--architecture NAME or FILE" in message
    assert "no published size fits" in message
    assert "\n" not in message


def test_published_sizes_that_fit_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fine_tuned(tmp_path / "m.pt", "sew")
    monkeypatch.setitem(PUBLISHED, "sew-toy", TOYS["sew"].replace(vocab_size=None))
    with pytest.raises(CheckpointError, match="these published sizes fit: sew-toy"):
        load_model(tmp_path / "m.pt")


@ASSUMED
@pytest.mark.parametrize("kind", ["name", "json", "yaml", "pt", "transformers"])
def test_the_architecture_may_be_a_name_or_a_file(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = fine_tuned(tmp_path / "m.pt", "sew-d")
    config = model.config.replace(vocab_size=None)
    given: Path | str = tmp_path / f"architecture.{kind}"
    if kind == "name":
        given = "toy"
        monkeypatch.setitem(PUBLISHED, given, config)
    elif kind == "pt":
        pretrained(given, "sew-d")
    elif kind == "transformers":
        from sewkit.checkpoint import save_model

        save_model(tmp_path / "folder", toy_model("sew-d"), Alphabet.english())
        given = tmp_path / "folder" / "config.json"
    else:
        fields = config.model_dump(mode="json")
        given.write_text(json.dumps(fields) if kind == "json" else yaml.safe_dump(fields))
    loaded = load_model(tmp_path / "m.pt", given)
    assert_equal_tensors(model, loaded.model)
    assert architecture_of(loaded.model.config) == architecture_of(model.config)


def test_input_normalisation_is_that_of_the_file_not_of_the_architecture(tmp_path: Path) -> None:
    fine_tuned(tmp_path / "m.pt", "sew", normalize=True)
    (tmp_path / "a.json").write_text(TOYS["sew"].model_dump_json())
    with pytest.warns(UserWarning, match="holds no letters: assuming the 32 English letters"):
        assert load_model(tmp_path / "m.pt", tmp_path / "a.json").model.config.normalize_input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "num_layers 3 but the tensors have 2"),
        ({"family": "wav2vec2", "squeeze_factor": 1}, "family wav2vec2 but the tensors have sew"),
        ({"pos_conv_groups": 8}, "pos_conv_groups 8 but the tensors have 4"),
        ({"conv_bias": True}, "conv_bias True but the tensors have False"),
        ({"extractor_norm": "layer"}, "extractor_norm layer but the tensors have group"),
        ({"squeeze_factor": 4}, "squeeze_factor 4 but the tensors have 2"),
        ({"hidden_size": 64, "ffn_size": 96}, "hidden_size 64 but the tensors have 32; .*ffn_size 96"),
    ],
)
def test_an_architecture_that_contradicts_the_tensors_is_an_error(changes: dict, message: str, tmp_path: Path) -> None:
    fine_tuned(tmp_path / "m.pt", "sew")
    (tmp_path / "a.json").write_text(TOYS["sew"].replace(**changes).model_dump_json())
    with pytest.raises(CheckpointError, match=f"m.pt: the architecture .*a.json says .*{message}"):
        load_model(tmp_path / "m.pt", tmp_path / "a.json")


def test_a_file_that_contradicts_itself_is_an_error(tmp_path: Path) -> None:
    pretrained(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    content["cfg"]["model"]["encoder_layers"] = 5
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="its configuration says num_layers 5 but the tensors have 2"):
        load_model(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("given", "content", "message"),
    [
        ("sew-tini", None, "no architecture named 'sew-tini', and no such file; published ones: sew-tiny"),
        ("a.json", "{", r"a\.json: cannot be read as JSON"),
        ("a.yaml", "a: [", r"a\.yaml: cannot be read as YAML"),
        ("a.yaml", "- 1", r"a\.yaml: expected ModelConfig fields by name, found list"),
        ("a.json", '{"family": "sew"}', r"a\.json: not a valid configuration: .*hidden_size"),
        ("a.json", '{"layers": 3}', r"a\.json: not a valid configuration"),
        ("a.pt", "text", r"a\.pt: not a readable PyTorch file"),
    ],
)
def test_an_architecture_that_cannot_be_read(
    given: str, content: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fine_tuned(Path("m.pt"))
    if content is not None:
        Path(given).write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model("m.pt", given)
    assert "\n" not in str(caught.value)


# ---- what is not supported ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"_name": "hubert"}, "holds a model of type 'hubert'; sewkit reads wav2vec2, squeeze_wav2vec2"),
        ({"_name": "data2vec_audio"}, "'data2vec_audio'"),
        (
            {"squeeze_method": "default-v2"},
            "squeeze_method is 'default-v2', which is not supported; expected 'default'",
        ),
        ({"feature_extractor_type": "conv2d"}, "feature_extractor_type is 'conv2d'"),
        ({"fbank_dim": 80}, "fbank_dim is 80"),
        ({"activation_fn": "relu"}, "activation_fn is 'relu'"),
        ({"extractor_mode": "batch"}, "extractor_norm: Input should be 'group' or 'layer'"),
        ({"_name": "squeeze_wav2vec2_deberta", "share_att_key": False}, "share_att_key is False"),
        ({"_name": "squeeze_wav2vec2_deberta", "pos_att_type": "c2p"}, "pos_att_type is 'c2p'"),
        ({"layer_type": "conformer"}, "layer_type is 'conformer'"),
    ],
)
def test_other_models_and_options_are_refused_by_name(options: dict, message: str, tmp_path: Path) -> None:
    pretrained(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    content["cfg"]["model"].update(options)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "m.pt")


@pytest.mark.parametrize("name", ["wav2vec_seq2seq", "hubert_ctc"])
def test_other_fine_tuned_models_are_refused_by_name(name: str, tmp_path: Path) -> None:
    fine_tuned(tmp_path / "m.pt", states_architecture=True)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    content["cfg"]["model"]["_name"] = name
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=f"holds a model of type '{name}'"):
        load_model(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"].update({"encoder.extra": torch.zeros(1)}), r"1 tensor \(encoder.extra\) that this kind"),
        (lambda c: c["model"].pop("layer_norm.weight"), r"1 tensor \(layer_norm.weight\) missing"),
        (
            lambda c: c["model"].update({"layer_norm.bias": torch.zeros(3)}),
            r"layer_norm.bias: expected .*, found \(3,\)",
        ),
        (lambda c: c["model"].update({"mask_emb": "text"}), "expected a tensor for mask_emb, found str"),
        (lambda c: c["model"].clear(), "not a wav2vec 2.0, SEW or SEW-D model"),
        (lambda c: c.pop("model"), "not an original checkpoint: no 'model' in it"),
        (lambda c: c.update(cfg=None), "neither 'cfg' nor 'args'"),
        (lambda c: c["cfg"]["model"].update(conv_feature_layers="evil()"), "conv_feature_layers is 'evil"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error_and_writes_nothing(change, message: str, tmp_path: Path) -> None:
    pretrained(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(tmp_path / "m.pt", tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / 'm.pt'}: ")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]


# ---- hostile and damaged files -----------------------------------------------------------------------------------


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HOSTILE = {
    "posix.system": lambda marker: Runs(os.system, f"touch {marker}"),
    "subprocess.Popen": lambda marker: Runs(subprocess.Popen, ["touch", marker]),
    "builtins.eval": lambda marker: Runs(eval, f"open({marker!r}, 'w')"),
    "builtins.exec": lambda marker: Runs(exec, f"open({marker!r}, 'w')"),
    "builtins.getattr": lambda marker: Runs(getattr, "text", "upper"),
    "torch.load": lambda marker: Runs(torch.load, marker),
    "pickle.loads": lambda marker: Runs(pickle.loads, b"cos\nsystem\n(S'true'\ntR."),
}


@pytest.mark.parametrize("layout", ["zip", "before zip", "bare pickle"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_by_name_and_runs_nothing(name: str, layout: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "m.pt"
    content = {"model": {}, "cfg": HOSTILE[name](str(marker))}
    if layout == "bare pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
    with pytest.raises(CheckpointError) as caught:
        convert(path, tmp_path / "out")
    if layout != "bare pickle":
        refused = name.replace("builtins", r"__builtin__|builtins").split("|")
        assert any(
            f"wants to run {part}" in str(caught.value) or name.split(".")[1] in str(caught.value) for part in refused
        )
    assert "\n" not in str(caught.value)
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_a_hostile_bin_file_of_transformers_is_refused(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "config.json").write_text('{"model_type": "sew"}')
    torch.save({"a": HOSTILE["posix.system"](str(marker))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: refused: it wants to run posix\.system"):
        load_model(tmp_path)
    assert not marker.exists()


def test_the_two_known_classes_become_inert_records(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(evil=os.sep, w2v_args=argparse.Namespace(arch="x"))}, tmp_path / "m.pt")
    args = load_torch_file(tmp_path / "m.pt")["args"]
    assert isinstance(args, Record)
    assert vars(args.w2v_args) == {"arch": "x"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "truncated before zip", "not torch", "zip of others"])
def test_a_damaged_file_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    pretrained(path)
    if kind == "truncated before zip":
        torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    damaged = {"empty": b"", "text": b"hello\nthere\n", "not torch": os.urandom(5000), "zip of others": b""}
    path.write_bytes(damaged.get(kind, whole[: len(whole) * 2 // 3]))
    if kind == "zip of others":
        import zipfile

        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"m\.pt: not a readable PyTorch file") as caught:
        convert(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice to load it unsafely
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_named_as_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m\.pt: no such file; check the path"):
        load_model(tmp_path / "m.pt", "sew-tiny")

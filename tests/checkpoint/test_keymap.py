"""Names of tensors: both directions, anchored, nothing left over."""

import pytest
import torch

from sewkit.checkpoint import CheckpointError, fairseq, huggingface
from sewkit.checkpoint.keymap import KeyMap, fill_model
from sewkit.config import Family
from sewkit.model import build_model
from sewkit.testing import TOYS, toy_model

FAMILIES = {"wav2vec2": TOYS["w2v2"], "sew": TOYS["sew"], "sew-d": TOYS["sew-d"]}
ANCHORS: list[tuple[Family, str, str | None, str | None]] = [
    ("sew", "mask_embedding", "masked_spec_embed", "mask_emb"),
    ("sew", "features.blocks.3.conv.weight", "feature_extractor.conv_layers.3.conv.weight", None),
    ("sew", "features.blocks.0.norm.bias", "feature_extractor.conv_layers.0.layer_norm.bias", None),
    ("sew", "feature_norm.weight", "layer_norm.weight", "layer_norm.weight"),
    ("wav2vec2", "feature_norm.weight", "feature_projection.layer_norm.weight", "layer_norm.weight"),
    ("sew", "projection.bias", "feature_projection.bias", "post_extract_proj.bias"),
    ("wav2vec2", "projection.bias", "feature_projection.projection.bias", "post_extract_proj.bias"),
    ("sew", "squeeze.position.weight_g", "encoder.pos_conv_embed.conv.weight_g", "encoder.pos_conv.0.weight_g"),
    ("sew", "squeeze.position.weight_v", "encoder.pos_conv_embed.conv.weight_v", "encoder.pos_conv.0.weight_v"),
    ("sew", "upsample.linear.weight", "encoder.upsample.projection.weight", "encoder.upsample.0.weight"),
    ("sew", "encoder.norm.weight", "encoder.layer_norm.weight", "encoder.layer_norm.weight"),
    (
        "sew",
        "encoder.layers.11.attention_norm.weight",
        "encoder.layers.11.layer_norm.weight",
        "encoder.layers.11.self_attn_layer_norm.weight",
    ),
    (
        "wav2vec2",
        "encoder.layers.0.feed_forward_norm.bias",
        "encoder.layers.0.final_layer_norm.bias",
        "encoder.layers.0.final_layer_norm.bias",
    ),
    (
        "sew-d",
        "encoder.positions.embedding",
        "encoder.encoder.rel_embeddings.weight",
        "encoder.encoder.rel_embeddings.weight",
    ),
    (
        "sew-d",
        "encoder.layers.1.attention.output.weight",
        "encoder.encoder.layer.1.attention.output.dense.weight",
        "encoder.encoder.layer.1.attention.output.dense.weight",
    ),
    (
        "sew-d",
        "encoder.layers.1.feed_forward.down.weight",
        "encoder.encoder.layer.1.output.dense.weight",
        "encoder.encoder.layer.1.output.dense.weight",
    ),
    ("sew-d", "head.weight", "lm_head.weight", "proj.weight"),
]
"""Written by hand, so that a rename on any side fails here. The last two pairs are those that substrings mistake."""


@pytest.mark.parametrize(("family", "ours", "transformers", "original"), ANCHORS)
def test_names_that_are_an_interface(family: Family, ours: str, transformers: str, original: str | None) -> None:
    assert huggingface.KEYMAPS[family].theirs(ours) == transformers
    assert huggingface.KEYMAPS[family].ours(transformers) == ours
    if original is not None:
        keymap = fairseq.keymap(FAMILIES[family])
        assert (keymap.theirs(ours), keymap.ours(original)) == (original, ours)


@pytest.mark.parametrize("name", TOYS)
def test_every_tensor_goes_there_and_back(name: str) -> None:
    with torch.device("meta"):
        keys = list(build_model(TOYS[name]).state_dict())
    for keymap in (huggingface.KEYMAPS[TOYS[name].family], fairseq.keymap(TOYS[name])):
        theirs = [keymap.theirs(key) for key in keys]
        assert len(set(theirs)) == len(keys)
        assert [keymap.ours(key) for key in theirs] == keys


def test_both_spellings_of_weight_norm() -> None:
    keymap = huggingface.KEYMAPS["sew"]
    stem = "encoder.pos_conv_embed.conv."
    assert keymap.ours(stem + "parametrizations.weight.original0") == keymap.ours(stem + "weight_g")
    assert keymap.ours(stem + "parametrizations.weight.original1") == keymap.ours(stem + "weight_v")


@pytest.mark.parametrize("key", ["xencoder.layer_norm.bias", "encoder.layer_norm.bias.x", "encoder.layers.x.fc1.bias"])
def test_patterns_are_whole_names(key: str) -> None:
    with pytest.raises(KeyError):
        huggingface.KEYMAPS["sew"].ours(key)


def test_heads_of_pre_training_are_dropped_on_purpose() -> None:
    for key in ("quantizer.vars", "project_q.net.1.running_var", "final_proj.net.3.bias", "final_proj.weight"):
        assert fairseq.keymap(TOYS["sew"]).ours(key) is None
    for key in ("quantizer.codevectors", "project_q.bias", "project_hid.weight", "quantizer.weight_proj.weight"):
        assert huggingface.KEYMAPS["wav2vec2"].ours(key) is None


def test_unknown_tensors_are_listed() -> None:
    keymap = KeyMap((("a.{p}", "b.{p}"),))
    tensors = {"b.weight": torch.zeros(1), "c.weight": torch.zeros(1), "d": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"file: 2 tensors \(c.weight, d\) that this kind of model does not have"):
        keymap.read(tensors, "file")


def test_two_tensors_for_one_parameter_are_an_error() -> None:
    keymap = KeyMap((("a", "b"), ("a", "c")))
    with pytest.raises(CheckpointError, match="two tensors for one parameter, the second is c"):
        keymap.read({"b": torch.zeros(1), "c": torch.zeros(1)}, "file")


def test_what_is_missing_left_over_or_of_another_shape_is_listed() -> None:
    tensors = dict(toy_model("sew").state_dict())
    del tensors["feature_norm.weight"]
    tensors["encoder.layers.7.attention.query.bias"] = torch.zeros(32)
    tensors["head.bias"] = torch.zeros(33)
    with pytest.raises(CheckpointError) as caught:
        fill_model(TOYS["sew"], tensors, "m.bin", huggingface.KEYMAPS["sew"])
    message = str(caught.value)
    assert message.startswith("m.bin: the weights do not fit the configuration: ")
    assert "1 tensor (layer_norm.weight) missing" in message
    assert "1 tensor (encoder.layers.7.attention.q_proj.bias) left over" in message
    assert "lm_head.bias: expected (32,), found (33,)" in message


def test_a_long_list_is_cut() -> None:
    with pytest.raises(CheckpointError, match=r"\d\d tensors \([^)]*, \.\.\.\) missing"):
        fill_model(TOYS["sew"], {}, "m.bin")


def test_a_missing_mask_vector_is_the_same_in_every_load() -> None:
    tensors = {key: value for key, value in toy_model("sew").state_dict().items() if key != "mask_embedding"}
    first, second = (fill_model(TOYS["sew"], tensors, "m").mask_embedding for _ in range(2))
    assert torch.equal(first, second)
    assert ((first >= 0) & (first < 1)).all()


def test_a_model_does_not_share_memory_with_what_was_read() -> None:
    tensors = dict(toy_model("sew").state_dict())
    model = fill_model(TOYS["sew"], tensors, "m")
    before = model.feature_norm.weight.clone()
    tensors["feature_norm.weight"].add_(1)
    assert torch.equal(model.feature_norm.weight, before)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.training

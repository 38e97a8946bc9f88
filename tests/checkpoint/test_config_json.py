"""config.json -> ModelConfig and back; what is refused, by name."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
import torch

from sewkit.checkpoint import CheckpointError, huggingface
from sewkit.config import PUBLISHED, Family, ModelConfig
from sewkit.testing import TOYS
from sewkit.text import Alphabet

transformers = pytest.importorskip("transformers")


def read(raw: dict[str, Any], tensors: set[str] = frozenset()) -> ModelConfig:  # type: ignore[assignment]
    return huggingface.read_config(raw, set(tensors), "config.json")


@pytest.mark.parametrize("family", get_args(Family))
def test_missing_keys_have_the_defaults_of_transformers_classes(family: Family) -> None:
    prefix = {"wav2vec2": "Wav2Vec2", "sew": "SEW", "sew-d": "SEWD"}[family]
    their_defaults = getattr(transformers, f"{prefix}Config")().to_dict()
    for key, value in huggingface.CLASS_DEFAULTS[family].items():
        if (family, key) != ("sew-d", "layerdrop"):  # no such field there, and no LayerDrop
            assert their_defaults[key] == (list(value) if isinstance(value, tuple) else value), key


@pytest.mark.parametrize("name", [*TOYS, *PUBLISHED])
def test_what_is_written_is_read_back(name: str) -> None:
    config = TOYS.get(name) or PUBLISHED[name].replace(vocab_size=32)
    raw = json.loads(json.dumps(huggingface.write_config(config, Alphabet.english(), None, torch.float32)))
    found = read(raw)
    # These two stand in other files, or under "sewkit".
    outside = {"normalize_input": config.normalize_input, "input_norm_eps": config.input_norm_eps}
    assert found.replace(**outside, project_features=config.project_features) == config


@pytest.mark.parametrize(
    ("tensors", "vocab_size", "num_labels"),
    [({"lm_head.weight"}, 32, None), ({"classifier.weight", "projector.weight"}, None, 2), ({"x"}, None, None)],
)
def test_the_head_follows_from_the_tensors_where_the_config_names_none(
    tensors: set[str], vocab_size: int | None, num_labels: int | None
) -> None:
    config = read({"model_type": "sew"}, tensors)
    assert (config.vocab_size, config.num_labels) == (vocab_size, num_labels)


def test_labels_are_in_the_order_of_their_ids() -> None:
    assert huggingface.read_labels({"id2label": {"10": "k", "2": "c", "0": "a", "1": "b"}})[:3] == ("a", "b", "c")
    assert huggingface.read_labels({"id2label": {"1": "b"}}) == ("LABEL_0", "b")
    assert huggingface.read_labels({}) == ("LABEL_0", "LABEL_1")
    assert len(huggingface.read_labels({"num_labels": 5})) == 5


def test_without_spec_augment_nothing_is_masked() -> None:
    config = read({"model_type": "wav2vec2", "apply_spec_augment": False, "mask_feature_prob": 0.2})
    assert (config.masking.time_prob, config.masking.channel_prob) == (0, 0)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"model_type": "hubert"}, "model_type is 'hubert'; sewkit reads 'wav2vec2', 'sew', 'sew-d'"),
        ({"model_type": "wavlm"}, "'wavlm'"),
        ({}, "model_type is None"),
        ({"model_type": "wav2vec2", "add_adapter": True}, "add_adapter is True; adapters are not supported"),
        ({"model_type": "wav2vec2", "adapter_attn_dim": 16}, "adapter_attn_dim is 16; adapters are not supported"),
        ({"model_type": "wav2vec2", "hidden_act": "relu"}, "hidden_act is 'relu'; expected 'gelu'"),
        ({"model_type": "sew", "feat_extract_activation": "gelu_new"}, "feat_extract_activation is 'gelu_new'"),
        ({"model_type": "sew-d", "pos_att_type": ["c2p"]}, "pos_att_type is .'c2p'.; expected"),
        ({"model_type": "sew-d", "share_att_key": False}, "share_att_key is False; expected True"),
        ({"model_type": "sew-d", "norm_rel_ebd": "none"}, "norm_rel_ebd is 'none'; expected 'layer_norm'"),
        ({"model_type": "sew-d", "relative_attention": False}, "relative_attention is False"),
        ({"model_type": "sew-d", "position_biased_input": True}, "position_biased_input is True"),
        ({"model_type": "sew-d", "max_relative_positions": 64}, "max_relative_positions is 64; expected -1 or 512"),
        ({"model_type": "sew-d", "position_buckets": -1}, "position_buckets is -1"),
        ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForXVector"]}, "Wav2Vec2ForXVector is not supported"),
        (
            {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForAudioFrameClassification"]},
            "Wav2Vec2ForAudioFrameClassification is not supported",
        ),
        ({"model_type": "sew", "conv_dim": [8, 8]}, "must be lists of one length"),
        ({"model_type": "sew", "conv_dim": 8}, "must be lists of one length"),
        ({"model_type": "sew", "hidden_size": "big"}, "config.json: not a valid configuration: hidden_size"),
        ({"model_type": "sew", "num_attention_heads": 7}, "not a multiple of num_heads 7"),
        ({"model_type": "sew", "hidden_dropout": 2}, "dropout.hidden"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(raw)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("config.json: ")


@pytest.mark.parametrize("kinds", [["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p"])
def test_both_spellings_of_the_position_terms_are_read(kinds: object) -> None:
    assert read({"model_type": "sew-d", "pos_att_type": kinds}).position_buckets == 256

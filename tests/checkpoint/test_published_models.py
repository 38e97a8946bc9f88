"""The published ids are loadable by construction: their config.json forms, recreated from what the hub shows, and their
tensors, by the names and shapes that transformers has for such a config. Only their real weights were not at hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sewkit.checkpoint import huggingface
from sewkit.checkpoint.hub import KNOWN_IDS
from sewkit.config import PUBLISHED, Dropout, Masking, ModelConfig, compact_conv_layers
from sewkit.model import build_model

transformers = pytest.importorskip("transformers")

PREFIXES = {"wav2vec2": "Wav2Vec2", "sew": "SEW", "sew-d": "SEWD"}


def size_of(model_id: str) -> str:
    """asapp/sew-d-mid-k127-400k-ft-ls100h -> sew-d-mid-k127."""
    name = model_id.removeprefix("asapp/").removesuffix("-ft-ls100h")
    return name.removesuffix("-100k").removesuffix("-400k")


def asapp_config(model_id: str) -> dict[str, Any]:
    """config.json of a model of asapp, with the keys of transformers 4.12 that mean nothing to us."""
    size = PUBLISHED[size_of(model_id)]
    fine_tuned = model_id.endswith("-ft-ls100h")
    widths, kernels, strides = zip(*size.conv_layers, strict=True)
    hidden_dropout = 0.0 if model_id in ("asapp/sew-d-mid-400k-ft-ls100h", "asapp/sew-d-tiny-100k-ft-ls100h") else 0.1
    raw: dict[str, Any] = {
        "_name_or_path": model_id,
        "activation_dropout": 0.0,
        "apply_spec_augment": True,
        "architectures": [PREFIXES[size.family] + ("ForCTC" if fine_tuned else "Model")],
        "attention_dropout": 0.1,
        "bos_token_id": 1,
        "classifier_proj_size": 256,
        "codevector_dim": 256,
        "conv_bias": False,
        "conv_dim": list(widths),
        "conv_kernel": list(kernels),
        "conv_stride": list(strides),
        "ctc_loss_reduction": "mean",
        "ctc_zero_infinity": False,
        "eos_token_id": 2,
        "feat_extract_activation": "gelu",
        "feat_extract_norm": "group",
        "feat_proj_dropout": hidden_dropout,
        "feat_quantizer_dropout": 0.0,
        "final_dropout": 0.0,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout": hidden_dropout,
        "hidden_size": size.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": size.ffn_size,
        "layer_norm_elementwise_affine": True,
        "layer_norm_eps": 1e-05,
        "layerdrop": 0.1 if fine_tuned else size.dropout.layerdrop,
        "mask_feature_length": 64 if fine_tuned else 10,
        "mask_feature_prob": 0.5 if fine_tuned else 0.0,
        "mask_time_length": 10,
        "mask_time_prob": 0.65,
        "model_type": size.family,
        "num_attention_heads": size.num_heads,
        "num_conv_pos_embedding_groups": 16,
        "num_conv_pos_embeddings": size.pos_conv_kernel,
        "num_feat_extract_layers": 13,
        "num_hidden_layers": size.num_layers,
        "pad_token_id": 0,
        "squeeze_factor": 2,
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "torch_dtype": "float32",
        "transformers_version": "4.12.0.dev0",
        "use_weighted_layer_sum": False,
        "vocab_size": 32,
    }
    if size.family == "sew-d":
        raw |= {
            "feature_layer_norm_eps": 1e-05,
            "hidden_act": "gelu_python",
            "layer_norm_eps": 1e-07,
            "max_position_embeddings": 512,
            "norm_rel_ebd": "layer_norm",
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "position_buckets": 256,
            "relative_attention": True,
            "share_att_key": True,
        }
    return raw


def facebook_config(model_id: str) -> dict[str, Any]:
    """config.json of a model of facebook, with pre-training's keys and those of transformers 4.3 to 4.7."""
    large, stable = "large" in model_id, "lv60" in model_id
    return {
        "_name_or_path": model_id,
        "activation_dropout": 0.1,
        "apply_spec_augment": True,
        "architectures": ["Wav2Vec2ForCTC"],
        "attention_dropout": 0.1,
        "bos_token_id": 1,
        "codevector_dim": 768 if large else 256,
        "contrastive_logits_temperature": 0.1,
        "conv_bias": stable,
        "conv_dim": [512] * 7,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "ctc_loss_reduction": "sum",
        "ctc_zero_infinity": False,
        "diversity_loss_weight": 0.1,
        "do_stable_layer_norm": stable,
        "eos_token_id": 2,
        "feat_extract_activation": "gelu",
        "feat_extract_dropout": 0.0,
        "feat_extract_norm": "layer" if stable else "group",
        "feat_proj_dropout": 0.1,
        "feat_quantizer_dropout": 0.0,
        "final_dropout": 0.1,
        "gradient_checkpointing": False,
        "hidden_act": "gelu",
        "hidden_dropout": 0.1,
        "hidden_dropout_prob": 0.1,
        "hidden_size": 1024 if large else 768,
        "initializer_range": 0.02,
        "intermediate_size": 4096 if large else 3072,
        "layer_norm_eps": 1e-05,
        "layerdrop": 0.1,
        "mask_feature_length": 10,
        "mask_feature_prob": 0.0,
        "mask_time_length": 10,
        "mask_time_prob": 0.05,
        "model_type": "wav2vec2",
        "num_attention_heads": 16 if large else 12,
        "num_codevector_groups": 2,
        "num_codevectors_per_group": 320,
        "num_conv_pos_embedding_groups": 16,
        "num_conv_pos_embeddings": 128,
        "num_feat_extract_layers": 7,
        "num_hidden_layers": 24 if large else 12,
        "num_negatives": 100,
        "pad_token_id": 0,
        "proj_codevector_dim": 768 if large else 256,
        "transformers_version": "4.7.0.dev0",
        "vocab_size": 32,
    }


FACEBOOK = {
    "facebook/wav2vec2-base-960h": "w2v2-base",
    "facebook/wav2vec2-large-960h": "w2v2-large",
    "facebook/wav2vec2-large-960h-lv60-self": "w2v2-large-lv60",
}
CONFIGS = {
    model_id: facebook_config(model_id) if model_id in FACEBOOK else asapp_config(model_id) for model_id in KNOWN_IDS
}


def without_training(config: ModelConfig) -> ModelConfig:
    return config.replace(dropout=Dropout(), masking=Masking(), normalize_input=False)


def test_the_twenty_published_ids_are_known() -> None:
    assert len(CONFIGS) == 20
    assert sum(model_id.startswith("asapp/") for model_id in CONFIGS) == 17


@pytest.mark.parametrize("model_id", CONFIGS)
def test_config_is_the_published_architecture(model_id: str) -> None:
    found = huggingface.read_config(CONFIGS[model_id], set(), model_id)
    published = PUBLISHED[FACEBOOK.get(model_id) or size_of(model_id)]
    head = None if model_id.endswith(("-100k", "-400k")) else 32
    assert without_training(found) == without_training(published.replace(vocab_size=head))
    if head is None:
        assert found == published  # dropout and masking of pre-training as well


def test_training_settings_of_a_fine_tuned_model_are_read() -> None:
    found = huggingface.read_config(CONFIGS["asapp/sew-d-tiny-100k-ft-ls100h"], set(), "x")
    assert found.dropout == Dropout(hidden=0, attention=0.1, activation=0, input=0, final=0, layerdrop=0.1)
    assert found.masking == Masking(time_prob=0.65, time_length=10, channel_prob=0.5, channel_length=64)


def test_first_uploads_of_sew_d_had_other_settings() -> None:
    """eps 1e-5 and plain gelu, and no feature_layer_norm_eps: replaced on the hub, but copies exist."""
    raw = CONFIGS["asapp/sew-d-tiny-100k"] | {"layer_norm_eps": 1e-05, "hidden_act": "gelu"}
    del raw["feature_layer_norm_eps"]
    expected = PUBLISHED["sew-d-tiny"].replace(layer_norm_eps=1e-5)
    assert huggingface.read_config(raw, set(), "x") == expected


@pytest.mark.parametrize("model_id", CONFIGS)
def test_every_tensor_of_transformers_has_a_place_of_its_shape(model_id: str) -> None:
    """On the meta device: names and shapes without weights. The spelling is that of transformers installed here."""
    raw = CONFIGS[model_id]
    config = huggingface.read_config(raw, set(), model_id)
    their_config = getattr(transformers, f"{PREFIXES[config.family]}Config")(**raw)
    with torch.device("meta"):
        theirs = getattr(transformers, raw["architectures"][0])(their_config).state_dict()
        ours = build_model(config).state_dict()
    named = huggingface.read_tensors(theirs, config.family, model_id)
    assert {key: value.shape for key, value in named.items()} == {key: value.shape for key, value in ours.items()}


def test_the_base_plus_extractor_starts_at_96() -> None:
    assert PUBLISHED["sew-d-base-plus"].conv_layers == compact_conv_layers(96)

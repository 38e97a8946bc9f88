"""Classifiers in folders: exact round trips, through transformers too, and its scores from the same weights.

W2V2, SEW and SEW-D, with and without the learned mix of layers. Scores within 1e-4 of transformers' on clips without
padding; a padded batch of ours gives the same, where transformers' weighted sum of SEW would not.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sewkit.checkpoint import CheckpointError, convert, load_model, save_model
from sewkit.config import ModelConfig
from sewkit.model import SpeechModel
from sewkit.testing import TOYS, padded_batch, synthetic_speech, toy_model

LABELS = ("left", "right", "none")
FAMILIES = ("w2v2", "w2v2-prenorm", "sew", "sew-s3", "sew-d")
NUM_SAMPLES = (16_000, 9_871, 5_003, 1_040, 720)
"""49, 30, 15, 3 and 2 frames: odd and even."""


def config(name: str, weighted: bool) -> ModelConfig:
    return TOYS[name].replace(vocab_size=None, num_labels=len(LABELS), weighted_layer_sum=weighted, classifier_size=12)


def assert_equal_models(one: SpeechModel, other: SpeechModel) -> None:
    assert one.config == other.config
    state, other_state = one.state_dict(), other.state_dict()
    assert state.keys() == other_state.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other_state[name]), name


@pytest.fixture
def transformers():
    module = pytest.importorskip("transformers")
    module.utils.logging.set_verbosity_error()
    module.utils.logging.disable_progress_bar()
    return module


def theirs(transformers, folder: Path):
    """What transformers loads, after checking that every weight was there and found its place."""
    auto = transformers.AutoModelForAudioClassification
    model, info = auto.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    assert type(model).__name__.endswith("ForSequenceClassification")
    return model.eval()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_round_trip_is_exact_by_way_of_transformers_too(
    name: str, weighted: bool, tmp_path: Path, transformers
) -> None:
    model = toy_model(config(name, weighted))
    save_model(tmp_path / "ours", model, labels=LABELS, label_column="intent")
    theirs(transformers, tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "ours")
    extractor.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        loaded = load_model(tmp_path / folder)
        assert_equal_models(model, loaded.model)
        assert (loaded.alphabet, loaded.labels, loaded.label_column) == (None, LABELS, "intent")
    assert ("layer_weights" in dict(model.head.named_parameters())) == weighted


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_padded_batch_gives_what_transformers_gives_for_each_clip_alone(
    name: str, weighted: bool, tmp_path: Path, transformers
) -> None:
    model = toy_model(config(name, weighted))
    save_model(tmp_path / "m", model, labels=LABELS)
    reference = theirs(transformers, tmp_path / "m")
    extractor = transformers.Wav2Vec2FeatureExtractor(
        do_normalize=model.config.normalize_input, return_attention_mask=False
    )
    clips = [synthetic_speech(size, seed) for seed, size in enumerate(NUM_SAMPLES)]
    with torch.inference_mode():
        together, _ = model(*padded_batch(clips))
        alone = [model(*padded_batch([clip]))[0][0] for clip in clips]
        expected = [
            reference(extractor(clip, sampling_rate=16_000, return_tensors="pt").input_values).logits[0]
            for clip in clips[: 3 if name == "sew-s3" else None]  # of 2 frames transformers squeezes none by 3
        ]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=0)
    torch.testing.assert_close(together[: len(expected)], torch.stack(expected), atol=1e-4, rtol=0)
    assert together.std(0).max() > 0.01  # clips differ, so they could be mistaken for each other


def test_converting_keeps_labels_and_their_column(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy_model(config("sew", True)), labels=LABELS, label_column="speaker")
    convert(tmp_path / "m", tmp_path / "half", half=True)
    loaded = load_model(tmp_path / "half")
    assert (loaded.labels, loaded.label_column) == (LABELS, "speaker")


def test_a_classifier_that_transformers_has_no_class_for_keeps_its_meaning(tmp_path: Path) -> None:
    model = toy_model(config("sew", True).replace(norm_first=True))
    save_model(tmp_path / "m", model, labels=LABELS, label_column="emotion")
    loaded = load_model(tmp_path / "m")
    assert_equal_models(model, loaded.model)
    assert (loaded.labels, loaded.label_column) == (LABELS, "emotion")


def test_without_a_column_none_is_written(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy_model(config("sew", False)), labels=LABELS)
    assert "label_column" not in json.loads((tmp_path / "m/config.json").read_text())["sewkit"]
    assert load_model(tmp_path / "m").label_column is None


def test_a_column_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a label column, 'speaker', without labels"):
        save_model(tmp_path / "m", toy_model(config("sew", False)), label_column="speaker")
    save_model(tmp_path / "m", toy_model(config("sew", False)), labels=LABELS)
    raw = json.loads((tmp_path / "m/config.json").read_text())
    raw["sewkit"]["label_column"] = ["speaker"]
    (tmp_path / "m/config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"malformed: label_column is \['speaker'\], expected a name"):
        load_model(tmp_path / "m")

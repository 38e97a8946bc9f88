"""Against transformers, random weights, un-padded: logits and encoder outputs, and what each side writes for the other.

Toy sizes within 1e-4, one published size of each family within 1e-3 (float32 sums in another order, more of them).
No network. Padded batches are not compared: there transformers lets padding in, see `tests/golden/README.md`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sewkit.checkpoint import load_model, save_model
from sewkit.config import PUBLISHED, ModelConfig
from sewkit.model import SpeechModel
from sewkit.testing import TOYS, padded_batch, synthetic_speech, toy_model
from sewkit.text import Alphabet

transformers = pytest.importorskip("transformers")

ENGLISH = Alphabet.english()
NUM_SAMPLES = (16_000, 16_320, 10_050, 9_871, 5_003)
"""49, 50, 31, 30 and 15 frames."""
CLASSES = {"wav2vec2": "Wav2Vec2", "sew": "SEW", "sew-d": "SEWD"}


@pytest.fixture(autouse=True)
def quiet_transformers() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def clips() -> list[np.ndarray]:
    return [synthetic_speech(size, seed) for seed, size in enumerate(NUM_SAMPLES)]


def bare(name: str) -> ModelConfig:
    return TOYS[name].replace(vocab_size=None)


def classifier(name: str, weighted: bool) -> ModelConfig:
    return TOYS[name].replace(vocab_size=None, num_labels=3, weighted_layer_sum=weighted, classifier_size=12)


def theirs(folder: Path, auto_class: str = "AutoModelForCTC"):
    """What transformers loads from a folder, after checking that every weight was there and found its place."""
    model, info = getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def fed(model: SpeechModel, waveform: np.ndarray) -> Tensor:
    """A waveform as transformers' processor would feed it."""
    settings = {"do_normalize": model.config.normalize_input, "return_attention_mask": False}
    extractor = transformers.Wav2Vec2FeatureExtractor(**settings)
    return extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_values


def largest_difference(ours: SpeechModel, their_model, waveforms: list[np.ndarray]) -> float:
    """Over logits or, without a head, encoder outputs."""
    worst = 0.0
    for waveform in waveforms:
        batch = padded_batch([waveform])
        with torch.inference_mode():
            found = ours(*batch)[0] if ours.head is not None else ours.encode(*batch).frames
            output = their_model(fed(ours, waveform))
        expected = output.logits if ours.head is not None else output.last_hidden_state
        assert found.shape == expected.shape
        worst = max(worst, float((found - expected).abs().max()))
    print(f"difference {worst:.1e} {'logits' if ours.head is not None else 'encoder'}")  # pytest -rP shows it
    return worst


def assert_equal_models(one: SpeechModel, other: SpeechModel) -> None:
    assert one.config == other.config
    state = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("name", TOYS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = toy_model(name)
    save_model(tmp_path / "m", model, ENGLISH)
    assert largest_difference(model, theirs(tmp_path / "m"), clips()) < 1e-4


@pytest.mark.parametrize("name", TOYS)
def test_encoder_outputs_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = toy_model(bare(name))
    save_model(tmp_path / "m", model)
    assert largest_difference(model, theirs(tmp_path / "m", "AutoModel"), clips()) < 1e-4


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["w2v2", "w2v2-prenorm", "sew", "sew-s3", "sew-d"])
def test_class_scores_are_those_of_transformers(name: str, weighted: bool, tmp_path: Path) -> None:
    model = toy_model(classifier(name, weighted))
    save_model(tmp_path / "m", model, labels=("yes", "no", "perhaps"))
    their_model = theirs(tmp_path / "m", "AutoModelForAudioClassification")
    assert their_model.config.id2label == {0: "yes", 1: "no", 2: "perhaps"}
    assert largest_difference(model, their_model, clips()) < 1e-4


@pytest.mark.parametrize("name", TOYS)
def test_round_trip_through_transformers_is_exact(name: str, tmp_path: Path) -> None:
    model = toy_model(name)
    save_model(tmp_path / "ours", model, ENGLISH)
    theirs(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    transformers.AutoProcessor.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    loaded = load_model(tmp_path / "theirs")
    assert_equal_models(model, loaded.model)
    assert loaded.alphabet == ENGLISH


@pytest.mark.parametrize("weighted", [False, True])
def test_round_trip_of_a_classifier_through_transformers_is_exact(weighted: bool, tmp_path: Path) -> None:
    model = toy_model(classifier("sew-d", weighted))
    save_model(tmp_path / "ours", model, labels=("a", "b", "c"))
    theirs(tmp_path / "ours", "AutoModelForAudioClassification").save_pretrained(tmp_path / "theirs")
    loaded = load_model(tmp_path / "theirs")
    assert_equal_models(model, loaded.model)
    assert loaded.labels == ("a", "b", "c")


def test_a_projection_that_only_transformers_needs_goes_again(tmp_path: Path) -> None:
    """Where widths are equal the original wav2vec 2.0 does not project, transformers always does: an identity."""
    config = TOYS["w2v2"].replace(hidden_size=16, project_features=False)
    model = toy_model(config)
    save_model(tmp_path / "ours", model, ENGLISH)
    their_model = theirs(tmp_path / "ours")
    assert largest_difference(model, their_model, clips()) < 1e-4
    their_model.save_pretrained(tmp_path / "theirs")
    transformers.AutoProcessor.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert_equal_models(model, load_model(tmp_path / "theirs").model)
    # Once trained there it is no identity any more, and stays.
    their_model.wav2vec2.feature_projection.projection.bias.data.add_(1)
    their_model.save_pretrained(tmp_path / "theirs")
    trained = load_model(tmp_path / "theirs").model
    assert trained.config == config.replace(project_features=True)
    assert largest_difference(trained, their_model, clips()[:1]) < 1e-4


def test_a_pre_norm_sew_is_refused_by_transformers_instead_of_computed_wrong(tmp_path: Path) -> None:
    save_model(tmp_path / "m", toy_model(TOYS["sew"].replace(norm_first=True)), ENGLISH)
    with pytest.raises((ValueError, KeyError), match="sewkit"):
        transformers.AutoModelForCTC.from_pretrained(tmp_path / "m")


def their_config(name: str, **changes: object):
    """A small configuration of theirs, written with their names only."""
    family = TOYS[name].family
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "conv_dim": (16, 24, 24),
        "conv_kernel": (10, 8, 4),
        "conv_stride": (5, 4, 4),
        "vocab_size": 32,
    }
    return getattr(transformers, f"{CLASSES[family]}Config")(**{**shape, **changes})


@pytest.mark.parametrize("head", ["Model", "ForCTC", "ForSequenceClassification"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("w2v2", {}),
        ("w2v2", {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}),
        ("w2v2", {"do_stable_layer_norm": True, "mask_time_prob": 0.0}),
        ("sew", {"squeeze_factor": 1}),
        ("sew", {"squeeze_factor": 2, "conv_bias": True}),
        ("sew", {"squeeze_factor": 3, "feat_extract_norm": "layer"}),
        ("sew", {"squeeze_factor": 4, "hidden_size": 24}),
        ("sew", {"num_conv_pos_embeddings": 15, "use_weighted_layer_sum": True}),
        ("sew-d", {"position_buckets": 8, "max_position_embeddings": 16, "num_conv_pos_embeddings": 15}),
        ("sew-d", {"squeeze_factor": 3, "hidden_size": 24, "num_conv_pos_embeddings": 15, "layer_norm_eps": 1e-5}),
        ("sew-d", {"squeeze_factor": 1, "num_conv_pos_embeddings": 15, "use_weighted_layer_sum": True}),
    ],
)
def test_what_transformers_writes_is_read_and_gives_its_output(
    name: str, changes: dict, head: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    their_model = getattr(transformers, CLASSES[TOYS[name].family] + head)(their_config(name, **changes)).eval()
    for parameter in their_model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    their_model.save_pretrained(tmp_path)
    preprocessor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    preprocessor.save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(ENGLISH.tokens)}))
    model = load_model(tmp_path).model
    assert largest_difference(model, their_model, clips()) < 1e-4


def test_the_heads_of_pre_training_are_known_and_dropped(tmp_path: Path) -> None:
    their_model = transformers.Wav2Vec2ForPreTraining(
        their_config("w2v2", codevector_dim=8, proj_codevector_dim=8)
    ).eval()
    their_model.save_pretrained(tmp_path)
    model = load_model(tmp_path).model
    assert model.head is None
    model = load_model(tmp_path).model
    with torch.inference_mode():
        expected = their_model.wav2vec2(fed(model, clips()[0])).last_hidden_state
        found = model.encode(*padded_batch(clips()[:1])).frames
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_the_processor_and_the_pipeline_of_transformers_work(tmp_path: Path) -> None:
    model = toy_model("w2v2-prenorm")
    save_model(tmp_path / "m", model, ENGLISH)
    waveform = synthetic_speech(16_000)
    pipeline = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path / "m"), device="cpu")
    with torch.inference_mode():
        ids = model(*padded_batch([waveform]))[0][0].argmax(1)
    text = "".join(pipeline(waveform)["text"].replace("<unk>", "").replace("<s>", "").replace("</s>", "").split())
    assert text == "".join(ENGLISH.collapse(ids.tolist()).split())


def test_half_precision_is_stored_and_read(tmp_path: Path) -> None:
    model = toy_model("sew")
    save_model(tmp_path / "m", model, ENGLISH, dtype=torch.float16)
    loaded = load_model(tmp_path / "m").model
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.head.weight, model.head.weight.half().float())
    assert theirs(tmp_path / "m").dtype == torch.float16
    assert largest_difference(loaded, theirs(tmp_path / "m").float(), clips()[:1]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["w2v2-base", "sew-tiny", "sew-d-tiny"])
def test_a_published_size_of_each_family_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    model = toy_model(PUBLISHED[name].replace(vocab_size=32))
    save_model(tmp_path / "m", model, ENGLISH)
    assert largest_difference(model, theirs(tmp_path / "m"), [synthetic_speech(3 * 16_000)]) < 1e-3


def test_a_model_fine_tuned_for_another_language_writes_the_text_of_its_pipeline(tmp_path: Path) -> None:
    """The habits of XLSR models: own letters and case, blank last, normalised input, a mask, marks added later."""
    vocab = {letter: index for index, letter in enumerate("|'abcdefghijklmnopqrstuvwxyzäöüß")} | {
        "[UNK]": 32,
        "[PAD]": 33,
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(
        tmp_path / "vocab.json", unk_token="[UNK]", pad_token="[PAD]", word_delimiter_token="|"
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)
    stable = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    torch.manual_seed(3)
    config = their_config("w2v2", **stable, vocab_size=34, pad_token_id=33, layerdrop=0.0)
    their_model = transformers.Wav2Vec2ForCTC(config).eval()
    for parameter in their_model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    their_model.save_pretrained(tmp_path / "m")
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert loaded.model.config.normalize_input
    assert loaded.alphabet is not None
    assert loaded.alphabet.blank == 33
    assert largest_difference(loaded.model, their_model, clips()) < 1e-4
    pipeline = transformers.pipeline("automatic-speech-recognition", model=str(tmp_path / "m"), device="cpu")
    texts = []
    for waveform in clips():
        with torch.inference_mode():
            ids = loaded.model(*padded_batch([waveform]))[0][0].argmax(1).tolist()
        texts.append(loaded.alphabet.collapse(ids))
        assert texts[-1] == " ".join(pipeline(waveform)["text"].replace("[UNK]", "").split())
    assert len(set("".join(texts))) > 3

"""CTC: feasibility, and the loss of batches with impossible and empty rows."""

import numpy as np
import pytest
import torch

from sewkit.config import Masking, ModelConfig, compact_conv_layers
from sewkit.data.batch import make_batch
from sewkit.lengths import needed_frames
from sewkit.model import build_model
from sewkit.objectives.ctc import CTC
from sewkit.objectives.masking import masks_of_batch
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()


def labels_of(*texts):
    encoded = [ALPHABET.encode(text) for text in texts]
    flat = torch.tensor([letter for letters in encoded for letter in letters], dtype=torch.int64)
    return flat, torch.tensor([len(letters) for letters in encoded])


def test_double_letters_need_a_frame_between_them():
    flat, lengths = labels_of("NO", "THREE", "", "EEE", "TOO OFF")
    assert needed_frames(flat, lengths).tolist() == [2, 6, 0, 5, 9]


def test_equal_letters_of_neighbouring_rows_do_not_count_as_double():
    flat, lengths = labels_of("ON", "NO")
    assert needed_frames(flat, lengths).tolist() == [2, 2]


@pytest.mark.parametrize("text", ["NO", "THREE", "OFF"])
def test_feasible_means_that_pytorch_finds_an_alignment(text):
    flat, lengths = labels_of(text)
    for frames in range(1, 9):
        scores = torch.randn(frames, 1, 32).log_softmax(-1)
        loss = torch.nn.functional.ctc_loss(scores, flat, torch.tensor([frames]), lengths, reduction="sum")
        assert bool(loss.isfinite()) == (frames >= int(needed_frames(flat, lengths)))


def toy_model(num_layers=2):
    torch.manual_seed(0)
    config = ModelConfig(
        family="sew",
        conv_layers=compact_conv_layers(4),
        hidden_size=32,
        num_layers=num_layers,
        num_heads=1,
        ffn_size=32,
        squeeze_factor=2,
        vocab_size=32,
    )
    return build_model(config).eval()


def noise(*sizes):
    return [np.random.default_rng(size).standard_normal(size).astype(np.float32) for size in sizes]


def test_impossible_rows_count_nothing_and_are_reported():
    model = toy_model()
    sound = noise(8000, 1200)  # 24 frames, and 3: too few for THREE
    both = CTC(model)(make_batch(sound, ["NO", "THREE"], ALPHABET))
    possible = CTC(model)(make_batch(sound[:1], ["NO"], ALPHABET))
    assert both.metrics["infeasible"] == 0.5
    assert both.total.item() == pytest.approx(possible.total.item(), rel=1e-5)
    assert (both.count, possible.count) == (7, 2)  # letters


def test_a_batch_of_impossible_rows_only_has_gradients_of_zero():
    model = toy_model()
    loss = CTC(model)(make_batch(noise(1200, 1200), ["THREE", "SEVEN"], ALPHABET))
    loss.total.backward()
    assert loss.total.item() == 0.0
    assert loss.metrics["infeasible"] == 1.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("texts", [[""], []])
def test_a_batch_without_any_speech_or_any_row_has_a_finite_loss(texts):
    model = toy_model()
    loss = CTC(model)(make_batch(noise(8000)[: len(texts)], texts, ALPHABET))
    loss.total.backward()
    assert loss.total.isfinite()
    assert loss.count == 0
    assert loss.metrics["infeasible"] == 0.0


def test_the_intermediate_loss_mixes_the_middle_layer_and_reports_the_last():
    model = toy_model()
    batch = make_batch(noise(8000), ["NO"], ALPHABET)
    plain, mixed = CTC(model)(batch), CTC(model, intermediate_weight=0.5)(batch)
    assert mixed.metrics["ctc"].item() == pytest.approx(plain.metrics["ctc"].item(), rel=1e-6)
    assert mixed.total.item() != plain.total.item()
    mixed.total.backward()
    assert all(p.grad is not None for p in model.encoder.layers[0].parameters())


def test_masks_belong_to_the_row_not_to_its_batch():
    config = toy_model().config
    masking = Masking(time_prob=0.5, time_length=3, channel_prob=0.3, channel_length=4)
    seeds = np.array([5, 6])
    together = masks_of_batch(masking, config, make_batch(noise(8000, 6000), ["", ""], ALPHABET, seeds=seeds))
    alone = masks_of_batch(masking, config, make_batch(noise(6000), [""], ALPHABET, seeds=seeds[1:]))
    frames = alone.time.shape[1]
    assert torch.equal(together.time[1, :frames], alone.time[0])
    assert not together.time[1, frames:].any()
    assert torch.equal(together.channel[1], alone.channel[0])
    assert alone.time.any()

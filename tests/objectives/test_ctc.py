"""CTC: feasibility, and the loss of batches with impossible and empty rows."""

import numpy as np
import pytest
import torch

from sewkit.config import ModelConfig, compact_conv_layers
from sewkit.data.batch import make_batch
from sewkit.model import build_model
from sewkit.objectives.ctc import ctc_loss, is_feasible, needed_frames
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
        assert bool(loss.isfinite()) == bool(is_feasible(flat, lengths, torch.tensor([frames])))


def test_impossible_rows_count_nothing_and_are_reported():
    def model(waveforms, sample_lengths, masks=None):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(len(waveforms), 6, 32, generator=generator)
        return logits.requires_grad_(), torch.tensor([6, 3])

    sound = [np.zeros(4000, dtype=np.float32), np.zeros(2000, dtype=np.float32)]
    both, metrics = ctc_loss(model, make_batch(sound, ["NO", "THREE"], ALPHABET))
    assert metrics["infeasible"] == 1
    logits, _ = model(torch.zeros(2, 4000), None)
    possible = torch.nn.functional.ctc_loss(
        logits[:1].log_softmax(-1).transpose(0, 1),
        labels_of("NO")[0],
        torch.tensor([6]),
        torch.tensor([2]),
        reduction="sum",
    )
    num_letters = 7  # of both rows
    assert both.item() * num_letters == pytest.approx(possible.item(), rel=1e-5)


def test_a_batch_without_any_speech_has_a_finite_loss():
    def model(waveforms, sample_lengths, masks=None):
        return torch.zeros(len(waveforms), 6, 32, requires_grad=True), torch.tensor([6])

    loss, _ = ctc_loss(model, make_batch([np.zeros(4000, dtype=np.float32)], [""], ALPHABET))
    loss.backward()
    assert loss.item() == pytest.approx(6 * np.log(32), rel=1e-5)  # all blank


def test_the_intermediate_loss_mixes_the_middle_layer_and_reports_the_last():
    torch.manual_seed(0)
    config = ModelConfig(
        family="sew",
        conv_layers=compact_conv_layers(4),
        hidden_size=32,
        num_layers=2,
        num_heads=1,
        ffn_size=32,
        squeeze_factor=2,
        vocab_size=32,
    )
    model = build_model(config).eval()
    batch = make_batch([np.random.default_rng(0).standard_normal(8000).astype(np.float32)], ["NO"], ALPHABET)
    plain, plain_metrics = ctc_loss(model, batch)
    mixed, mixed_metrics = ctc_loss(model, batch, intermediate_weight=0.5)
    assert mixed_metrics["loss"] == pytest.approx(plain_metrics["loss"], rel=1e-6)
    assert mixed.item() != plain.item()
    mixed.backward()
    assert all(p.grad is not None for p in model.encoder.layers[0].parameters())

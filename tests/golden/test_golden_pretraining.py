"""Pre-training against the original: what it computed from given masks, negatives and Gumbel noise.

Evaluation: logits within 1e-4 (they lie within 10), loss terms and perplexities within 1e-5 of themselves.
Training, dropout off: the same for the loss; batch norm's buffers within 1e-6; gradients of all parameters within 1e-4
of the largest entry of their tensor or, of large tensors, of their norm (measured: 2e-5; the original differs by 5e-6
between one thread and two).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import NAMES, GoldenCase
from torch import Tensor

from sewkit.checkpoint import fairseq
from sewkit.checkpoint.pretraining import ORIGINAL_KEYMAPS
from sewkit.config import Dropout
from sewkit.model import build_model
from sewkit.model.model import Masks
from sewkit.objectives.contrastive import Contrastive, Draws, contrastive_logits, load_contrastive
from sewkit.objectives.loss import Loss
from sewkit.objectives.quantizer import temperature_at

NO_DROPOUT = Dropout(hidden=0, attention=0, activation=0, input=0, final=0, layerdrop=0)
UPDATE = 1234
"""At which the original's training pass was recorded."""
TERMS = {"contrastive": "loss_0", "diversity": "loss_1", "feature_penalty": "loss_2"}


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GoldenCase:
    return GoldenCase(request.param, tmp_path_factory.mktemp("golden"))


def original(case: GoldenCase) -> Contrastive:
    """The original's model and heads without dropout, fed with waveforms that are normalised already."""
    loaded = load_contrastive(case.file("checkpoint.pt"), dropout_features=0.0)
    model = build_model(loaded.model.config.replace(dropout=NO_DROPOUT, normalize_input=False))
    model.load_state_dict(loaded.model.state_dict())
    contrastive = Contrastive(model, loaded.settings)
    contrastive.load_heads(loaded.heads().tensors, case.name)
    return contrastive


class Waveforms:
    """The waveforms of a case, all of one length, as the batch that the objective takes."""

    def __init__(self, case: GoldenCase):
        self.waveforms = torch.from_numpy(case.pretraining["source"])
        self.sample_lengths = torch.full((len(self.waveforms),), self.waveforms.shape[1])
        self.compute = None


def draws(case: GoldenCase, mode: str, contrastive: Contrastive) -> Draws:
    """What the original drew. It numbers the masked frames of the batch, we those of each row."""
    data = case.pretraining
    masks, settings = torch.from_numpy(data[f"{mode}_mask_indices"]), contrastive.settings
    num_rows, num_masked = len(masks), int(masks[0].sum())
    negatives = torch.from_numpy(data[f"{mode}_negative_indices"]).long().view(num_rows, num_masked, -1)
    negatives = negatives - num_masked * torch.arange(num_rows)[:, None, None]
    noise = None
    if mode == "train":
        noise = torch.from_numpy(data["train_gumbel_noise"]).view(num_rows, num_masked, settings.groups, -1)
    return Draws(Masks(masks, None), negatives, noise)


def score(contrastive: Contrastive, case: GoldenCase, mode: str) -> Loss:
    features, lengths = contrastive.extract(Waveforms(case))
    temperature = temperature_at(UPDATE, contrastive.settings.temperature)
    return contrastive.score(features, lengths, draws(case, mode, contrastive), temperature)


def assert_same_loss(loss: Loss, data: dict[str, Any], mode: str) -> None:
    assert loss.count == data[f"{mode}_sample_size"]
    assert loss.total.item() == pytest.approx(float(data[f"{mode}_loss"]), rel=1e-5)
    for ours, theirs in TERMS.items():
        expected = float(data.get(f"{mode}_{theirs}", 0.0))  # the LayerNorm extractor's penalty has no weight
        assert float(loss.metrics[ours]) * loss.count == pytest.approx(expected, rel=1e-5)
    for name in ("prob_perplexity", "code_perplexity"):
        assert float(loss.metrics[name]) == pytest.approx(float(data[f"{mode}_{name}"]), rel=1e-5)
    assert round(float(loss.metrics["accuracy"]) * loss.count) == data[f"{mode}_correct"]


def test_settings_are_those_of_the_file(case: GoldenCase) -> None:
    settings = load_contrastive(case.file("checkpoint.pt")).settings
    large = case.name == "w2v2_prenorm"
    assert (settings.groups, settings.entries, settings.vq_dim, settings.final_dim) == (2, 20, 16, 16)
    assert settings.heads == ("linear" if case.name.startswith("w2v2") else "mlp")
    assert (settings.diversity_weight, settings.feature_penalty_weight) == (0.1, 0.0 if large else 10.0)
    assert settings.feature_grad_scale == (1.0 if large else 0.1)
    assert settings.temperature == (2.0, 0.1 if large else 0.5, 0.999995)


def test_the_older_file_layout_gives_the_same_heads(tmp_path_factory: pytest.TempPathFactory) -> None:
    case = GoldenCase("w2v2_postnorm", tmp_path_factory.mktemp("golden"))
    new, old = (load_contrastive(case.file(name)).heads() for name in ("checkpoint.pt", "legacy_checkpoint.pt"))
    assert old.settings == new.settings
    assert all(torch.equal(value, new.tensors[name]) for name, value in old.tensors.items())


def test_logits_and_loss_in_evaluation(case: GoldenCase) -> None:
    contrastive = original(case).eval()
    drawn, data = draws(case, "pre", contrastive), case.pretraining
    with torch.no_grad():
        features, lengths = contrastive.extract(Waveforms(case))
        context, targets, quantized = contrastive.predict(features, lengths, drawn, 1.0)
        logits = contrastive_logits(context, targets, quantized.codes, drawn.negatives, 0.1)
        loss = score(contrastive, case, "pre")
    assert torch.equal(quantized.codes.flatten(0, 1), torch.from_numpy(data["pre_codes"]).long())
    expected = torch.from_numpy(data["pre_logits"]).permute(1, 2, 0)
    assert expected.isinf().any()  # so equal code words are among the negatives
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert_same_loss(loss, data, "pre")


def test_loss_gradients_and_buffers_in_training(case: GoldenCase) -> None:
    contrastive, data = original(case).train(), case.pretraining
    loss = score(contrastive, case, "train")
    loss.total.backward()
    assert_same_loss(loss, data, "train")
    assert float(loss.metrics["temperature"]) == pytest.approx(float(data["train_temp"]), rel=1e-6)
    compared = 0
    for name, parameter in contrastive.named_parameters():
        assert parameter.grad is not None, name
        compared += 1
        assert_same_gradient(parameter.grad, data, their_name(name, contrastive))
    assert compared == sum(key.startswith(("grad:", "gradnorm:")) for key in data)
    buffers = {their_name(name, contrastive): value for name, value in contrastive.named_buffers()}
    expected = {key.removeprefix("buffer:"): data[key] for key in data if key.startswith("buffer:")}
    assert buffers.keys() == expected.keys()
    for name, value in buffers.items():
        torch.testing.assert_close(value, torch.from_numpy(expected[name]), atol=1e-6, rtol=0)


def their_name(name: str, contrastive: Contrastive) -> str:
    if name.startswith("model."):
        return fairseq.keymap(contrastive.model.config).theirs(name.removeprefix("model."))
    return ORIGINAL_KEYMAPS[contrastive.settings.heads].theirs(name)


def assert_same_gradient(found: Tensor, data: dict[str, np.ndarray], name: str) -> None:
    """Whole, or its norm where the tensor is large. The keys' biases have none but for rounding."""
    if f"grad:{name}" not in data:
        assert float(found.norm()) == pytest.approx(float(data[f"gradnorm:{name}"]), rel=1e-4), name
        return
    expected = torch.from_numpy(data[f"grad:{name}"])
    tolerance = 1e-3 if name.endswith("k_proj.bias") else 1e-4 * float(expected.abs().max())
    difference = float((found.reshape(expected.shape) - expected).abs().max())
    print(f"difference {difference / float(expected.abs().max()):.1e} {name}")  # pytest -rP shows it
    assert difference <= tolerance, name

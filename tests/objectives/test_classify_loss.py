"""Classification loss: its value, what batches and masks do to it, and that it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from sewkit.config import Masking
from sewkit.data.batch import Batch
from sewkit.model import SpeechModel
from sewkit.objectives.classification import Classify
from sewkit.testing import TOYS, padded_batch, synthetic_speech, toy_model

NUM_SAMPLES = (16_000, 9_871, 5_003, 1_040)
CLASSES = (2, 0, 1, 2)
MASKING = Masking(time_prob=0.5, time_length=3, channel_prob=0.3, channel_length=4)


def classifier(name: str = "sew", weighted: bool = False) -> SpeechModel:
    return toy_model(TOYS[name].replace(vocab_size=None, num_labels=3, weighted_layer_sum=weighted))


def batch_of(rows: range | list[int]) -> Batch:
    """Some of the clips, each with its class and its seed."""
    waveforms, lengths = padded_batch([synthetic_speech(NUM_SAMPLES[row], row) for row in rows])
    return Batch(
        waveforms=waveforms,
        sample_lengths=lengths,
        labels=torch.zeros(0, dtype=torch.int64),
        label_lengths=torch.zeros(len(rows), dtype=torch.int64),
        texts=[""] * len(rows),
        seeds=torch.tensor([100 + row for row in rows]),
        classes=torch.tensor([CLASSES[row] for row in rows]),
    )


def test_the_loss_is_the_cross_entropy_summed_over_utterances() -> None:
    model, batch = classifier(), batch_of(range(4))
    total, count, metrics = Classify(model)(batch, 0)
    scores, _ = model(batch.waveforms, batch.sample_lengths)
    by_hand = -scores.log_softmax(1)[torch.arange(4), batch.classes].sum()
    assert count == 4
    assert total.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert metrics["cross_entropy"].item() == pytest.approx(by_hand.item() / 4, rel=1e-6)
    assert metrics["accuracy"].item() == (scores.argmax(1) == batch.classes).float().mean()
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("masking", [None, MASKING])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["w2v2", "sew-s3", "sew-d"])
def test_a_batch_has_the_loss_and_gradient_of_its_rows(name: str, weighted: bool, masking: Masking | None) -> None:
    """Masks too belong to the row. Totals within 1e-4, gradients within 1e-4 of their largest value."""
    model = classifier(name, weighted)
    objective = Classify(model, masking)
    total = objective(batch_of(range(4)), 0).total
    together = torch.autograd.grad(total, list(model.head.parameters()))
    alone = [objective(batch_of([row]), 0).total for row in range(4)]
    assert total.item() == pytest.approx(sum(one.item() for one in alone), abs=1e-4)
    for one, other in zip(together, torch.autograd.grad(sum(alone), list(model.head.parameters())), strict=True):
        assert (one - other).abs().max() <= 1e-4 * max(1.0, float(other.abs().max()))


def test_masks_change_the_loss_and_follow_the_seeds() -> None:
    objective, batch = Classify(classifier(), MASKING), batch_of(range(4))
    first, again = objective(batch, 0).total, objective(batch, 0).total
    other = objective(dataclasses.replace(batch, seeds=batch.seeds + 1), 0).total
    assert first.item() == again.item()
    assert len({first.item(), other.item(), Classify(objective.model)(batch, 0).total.item()}) == 3


def test_every_parameter_gets_a_gradient() -> None:
    model = classifier(weighted=True)
    Classify(model, MASKING)(batch_of(range(4)), 0).total.backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("upsample"):  # a mix of layers is taken before it
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_a_batch_without_rows_counts_nothing() -> None:
    model = classifier()
    none = torch.zeros(0, dtype=torch.int64)
    batch = Batch(
        waveforms=torch.zeros(0, 16_000), sample_lengths=none, labels=none, label_lengths=none, texts=[], classes=none
    )
    total, count, metrics = Classify(model, MASKING)(batch, 0)
    total.backward()
    assert (total.item(), count) == (0.0, 0)
    assert all(value.isfinite() for value in metrics.values())


def test_it_learns_which_of_two_tones_is_heard() -> None:
    """From cross-entropy of about log 2 to certainty, and then right on tones of other lengths."""
    time = np.arange(16_000) / 16_000
    tones = [
        np.sin(2 * np.pi * hertz * time[:size]).astype(np.float32) for size in (3000, 3501) for hertz in (200, 900)
    ]
    torch.manual_seed(0)
    model = toy_model(TOYS["sew"].replace(vocab_size=None, num_labels=2)).train()
    objective = Classify(model, Masking(time_prob=0.1, time_length=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    waveforms, lengths = padded_batch(tones)
    none = torch.zeros(0, dtype=torch.int64)
    classes = torch.tensor([0, 1, 0, 1])
    for update in range(30):
        batch = Batch(
            waveforms=waveforms,
            sample_lengths=lengths,
            labels=none,
            label_lengths=torch.zeros(4, dtype=torch.int64),
            texts=[""] * 4,
            seeds=torch.arange(4) + 4 * update,
            classes=classes,
        )
        total, count, _ = objective(batch, update)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    model.eval()
    fresh = [np.sin(2 * np.pi * hertz * time[:4200]).astype(np.float32) for hertz in (200, 900)]
    with torch.inference_mode():
        scores, _ = model(*padded_batch(fresh))
    assert functional.cross_entropy(scores, torch.tensor([0, 1])) < 0.2

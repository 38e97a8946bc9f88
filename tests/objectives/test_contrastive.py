"""The contrastive objective: negatives, logits, and what must not depend on precision, padding or processes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from sewkit.checkpoint import CheckpointError, save_model
from sewkit.checkpoint.pretraining import PretrainingHeads, save_heads
from sewkit.config import Dropout
from sewkit.data.batch import Batch
from sewkit.errors import UserError
from sewkit.model import build_model
from sewkit.objectives.contrastive import (
    Contrastive,
    ContrastiveSettings,
    contrastive_logits,
    draw_negatives,
    load_contrastive,
    mean_squares,
)
from sewkit.objectives.masking import equal_masks, span_masks
from sewkit.objectives.random import RowRandom
from sewkit.testing import TOYS, synthetic_speech

NO_DROPOUT = Dropout(hidden=0, attention=0, activation=0, input=0, final=0, layerdrop=0)
SETTINGS = ContrastiveSettings(mlp_size=24, entries=10, vq_dim=16, final_dim=12, num_negatives=20, dropout_features=0)


def toy(name: str = "sew", dropout: Dropout = NO_DROPOUT, **changes) -> Contrastive:
    torch.manual_seed(0)
    model = build_model(TOYS[name].replace(vocab_size=None, dropout=dropout))
    return Contrastive(model, SETTINGS.model_copy(update=changes))


def batch_of(num_rows: int, num_samples: int = 12_000) -> Batch:
    """Rows of one length with their seeds."""
    waveforms = torch.stack([torch.from_numpy(synthetic_speech(num_samples, seed)) for seed in range(num_rows)])
    return Batch(
        waveforms=waveforms,
        sample_lengths=torch.full((num_rows,), num_samples),
        labels=torch.zeros(0, dtype=torch.int64),
        label_lengths=torch.zeros(num_rows, dtype=torch.int64),
        texts=[""] * num_rows,
        seeds=torch.arange(num_rows) + 100,
    )


# ---- negatives and logits ------------------------------------------------------------------------------------------


def test_negatives_are_uniform_over_the_other_frames():
    negatives = draw_negatives(RowRandom(torch.arange(50)), 9, 400)
    assert negatives.shape == (50, 9, 400)
    for own in range(9):
        counts = negatives[:, own].flatten().bincount(minlength=9)
        assert counts[own] == 0
        others = counts[torch.arange(9) != own].float()
        assert others.tolist() == pytest.approx([2_500] * 8, abs=235)  # five standard deviations


def test_logits_are_cosines_over_temperature():
    generator = torch.Generator().manual_seed(0)
    context, targets = torch.randn(2, 2, 6, 5, generator=generator)
    codes = torch.arange(12).view(2, 6, 1)
    negatives = draw_negatives(RowRandom(torch.arange(2)), 6, 4)
    logits = contrastive_logits(context, targets, codes, negatives, 0.1)
    for row in range(2):
        for frame in range(6):
            others = targets[row, [frame, *negatives[row, frame].tolist()]]
            expected = torch.cosine_similarity(context[row, frame][None], others) / 0.1
            torch.testing.assert_close(logits[row, frame], expected, atol=1e-5, rtol=0)


def test_a_negative_of_the_same_code_words_does_not_count():
    context, targets = torch.randn(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    codes = torch.tensor([[[1, 2], [1, 3], [1, 2], [0, 2]]])  # frames 0 and 2 agree in both groups
    negatives = torch.tensor([[[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]])
    logits = contrastive_logits(context.requires_grad_(), targets, codes, negatives, 0.1)
    infinite = logits.isinf()
    assert infinite.nonzero().tolist() == [[0, 0, 2], [0, 2, 1]]
    assert (logits[infinite] < 0).all()
    logits.logsumexp(dim=-1).sum().backward()
    assert context.grad.isfinite().all()


# ---- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w2v2-prenorm", "sew", "sew-s3", "sew-d"])
@pytest.mark.parametrize("heads", ["linear", "mlp"])
def test_the_loss_falls_in_training(name, heads):
    contrastive = toy(name, heads=heads).train()
    batch = batch_of(3)
    optimizer = torch.optim.Adam(contrastive.parameters(), lr=2e-3)
    losses = []
    for update in range(12):
        loss = contrastive(batch, update)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
        losses.append(float(loss.metrics["contrastive"]))
    assert losses[-1] < losses[0] - 0.05
    assert all(parameter.grad is not None for parameter in contrastive.parameters())


def test_the_parts_add_up_and_the_metrics_are_in_range():
    loss = toy().train()(batch_of(4), update=0)
    metrics = {name: float(value) for name, value in loss.metrics.items()}
    parts = metrics["contrastive"] + metrics["diversity"] + metrics["feature_penalty"]
    assert loss.total.item() == pytest.approx(parts * loss.count, rel=1e-5)
    assert loss.count % 4 == 0
    assert 0 <= metrics["accuracy"] <= 1
    assert -1 <= metrics["negative_similarity"] <= 1
    assert 2 <= metrics["code_perplexity"] <= metrics["prob_perplexity"] + 20
    assert metrics["temperature"] == 2.0
    assert not any(value.requires_grad for value in loss.metrics.values())


def test_what_is_drawn_depends_on_the_seeds_only():
    contrastive, batch = toy().train(), batch_of(3)
    one, same = (contrastive(batch, 0).total.item() for _ in range(2))
    other = contrastive(replace(batch, seeds=batch.seeds + 1), 0).total.item()
    assert one == same
    assert one != other


def test_the_penalty_is_of_each_rows_valid_frames():
    features = torch.tensor([[[1.0, 3.0], [100.0, 100.0]], [[2.0, 0.0], [0.0, 4.0]]])
    assert mean_squares(features, torch.tensor([1, 2])).tolist() == [5.0, 5.0]


def test_the_gradient_scale_is_on_the_extractor_alone_and_includes_the_penalty():
    gradients = {}
    for scale in (1.0, 0.1):
        contrastive = toy(feature_grad_scale=scale).train()
        contrastive(batch_of(2), 0).total.backward()
        gradients[scale] = {name: parameter.grad for name, parameter in contrastive.named_parameters()}
    for name, whole in gradients[1.0].items():
        expected = whole * (0.1 if name.startswith("model.features.") else 1.0)
        torch.testing.assert_close(gradients[0.1][name], expected, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def test_a_scale_of_zero_freezes_the_extractor():
    contrastive = toy(feature_grad_scale=0.0).train()
    contrastive(batch_of(2), 0).total.backward()
    assert all(parameter.grad is None for parameter in contrastive.model.features.parameters())
    assert contrastive.model.mask_embedding.grad is not None


def test_padding_behind_the_clips_changes_nothing():
    contrastive, batch = toy().train(), batch_of(3)
    padded = replace(batch, waveforms=torch.nn.functional.pad(batch.waveforms, (0, 5_000)))
    plain = contrastive(batch, 0).total.item()
    # Other numbers are drawn for a wider row only where frames do not exist; those of the valid frames are the same.
    assert contrastive(padded, 0).total.item() == pytest.approx(plain, rel=1e-5)


def test_logits_and_loss_are_float32_under_autocast():
    contrastive, batch = toy().train(), batch_of(2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive(batch, 0)
    assert loss.total.dtype == torch.float32
    # bfloat16 keeps three digits, and some code words are chosen otherwise.
    assert loss.total.item() == pytest.approx(contrastive(batch, 0).total.item(), rel=0.05)


def test_evaluation_draws_no_noise_and_leaves_the_buffers():
    contrastive = toy().eval()
    before = {name: value.clone() for name, value in contrastive.named_buffers()}
    with torch.no_grad():
        first = contrastive(batch_of(2), 0).total
        assert torch.equal(first, contrastive(batch_of(2), 100_000).total)  # whatever the temperature
    assert all(torch.equal(value, before[name]) for name, value in contrastive.named_buffers())


def test_clips_too_short_to_mask_are_named():
    batch = replace(batch_of(2), sample_lengths=torch.tensor([12_000, 700]))
    with pytest.raises(UserError, match="an utterance of 1 frames: expected at least 3"):
        toy().train()(batch, 0)


# ---- several processes ---------------------------------------------------------------------------------------------


def masked_alike(batch: Batch) -> Batch:
    """With a time mask that is equal over all rows, as a group of processes needs it."""
    random, lengths = RowRandom(batch.seeds), torch.full((len(batch),), 37)
    return replace(batch, time_mask=equal_masks(span_masks(lengths, 37, 0.65, 10, random, 2), random))


def rows_of(batch: Batch, first: int, end: int) -> Batch:
    names = ("waveforms", "sample_lengths", "seeds", "time_mask", "label_lengths", "texts")
    return replace(batch, **{name: getattr(batch, name)[first:end] for name in names})


SPLITS = ((3, 1), (4, 0))
"""Rows of two processes."""


def train_shares(rank: int, folder: Path) -> None:
    """What one of two processes makes of its rows of each split."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = []
    for sizes in SPLITS:
        contrastive, first = toy().train(), sum(sizes[:rank])
        loss = contrastive(rows_of(masked_alike(batch_of(4)), first, first + sizes[rank]), update=0)
        loss.total.backward()
        gradients = {name: parameter.grad for name, parameter in contrastive.named_parameters()}
        metrics = {name: float(value) for name, value in loss.metrics.items()}
        results.append((loss.total.item(), loss.count, metrics, gradients, dict(contrastive.named_buffers())))
    torch.save(results, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_give_the_sums_of_one(tmp_path):
    """Also where one of them has no rows at all; sums in another order, so 1e-5 of the largest entry."""
    multiprocessing.spawn(train_shares, (tmp_path,), nprocs=2)
    contrastive = toy().train()
    loss = contrastive(masked_alike(batch_of(4)), update=0)
    loss.total.backward()
    for shares in zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True):
        totals, counts, metrics, gradients, buffers = zip(*shares, strict=True)
        assert sum(counts) == loss.count
        assert sum(totals) == pytest.approx(loss.total.item(), rel=1e-5)
        for name, expected in loss.metrics.items():
            found = sum(values[name] * count for values, count in zip(metrics, counts, strict=True)) / loss.count
            assert found == pytest.approx(float(expected), rel=1e-4, abs=1e-6), name
        for name, parameter in contrastive.named_parameters():
            tolerance = 1e-5 * max(float(parameter.grad.abs().max()), 1.0)
            torch.testing.assert_close(gradients[0][name] + gradients[1][name], parameter.grad, atol=tolerance, rtol=0)
        for name, buffer in contrastive.named_buffers():
            torch.testing.assert_close(buffers[0][name], buffer, atol=1e-6, rtol=1e-5)
            assert torch.equal(buffers[0][name], buffers[1][name])


# ---- files ---------------------------------------------------------------------------------------------------------


def test_heads_beside_a_model_come_back_with_it(tmp_path):
    contrastive = toy().train()
    contrastive(batch_of(2), 0)  # moves the buffers of batch norm
    save_model(tmp_path / "model", contrastive.model)
    save_heads(tmp_path / "model", contrastive.heads())
    again = load_contrastive(tmp_path / "model")
    assert again.settings == contrastive.settings
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in contrastive.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "model").glob("*pretraining*")) == [
        "pretraining.json",
        "pretraining.safetensors",
    ]


def test_settings_can_be_changed_on_the_way(tmp_path):
    contrastive = toy()
    save_model(tmp_path / "model", contrastive.model)
    save_heads(tmp_path / "model", contrastive.heads())
    assert load_contrastive(tmp_path / "model", num_negatives=7).settings.num_negatives == 7
    with pytest.raises(CheckpointError, match=r"3 shapes \(quantizer.codebook: .* wrong"):
        load_contrastive(tmp_path / "model", entries=11)


def test_missing_and_left_over_heads_are_named(tmp_path):
    contrastive = toy()
    tensors = {**contrastive.heads().tensors, "more": torch.zeros(1)}
    del tensors["quantizer.codebook"]
    with pytest.raises(CheckpointError, match=r"elsewhere: .* \(quantizer.codebook\) missing; .* \(more\) left over"):
        contrastive.load_heads(tensors, "elsewhere")
    save_model(tmp_path / "bare", contrastive.model)
    with pytest.raises(CheckpointError, match="holds no quantiser and heads of pre-training"):
        load_contrastive(tmp_path / "bare")


def test_heads_of_a_later_format_are_refused(tmp_path):
    save_model(tmp_path / "model", toy().model)
    save_heads(tmp_path / "model", PretrainingHeads({}, {"quantizer.codebook": torch.zeros(2)}))
    settings = tmp_path / "model" / "pretraining.json"
    settings.write_text(settings.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(CheckpointError, match="format version 2"):
        load_contrastive(tmp_path / "model")

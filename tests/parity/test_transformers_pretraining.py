"""Pre-training of wav2vec 2.0 against transformers' Wav2Vec2ForPreTraining: the same masks, negatives and weights.

transformers has no feature penalty, and in evaluation its diversity loss is of the codes instead of the probabilities.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sewkit.checkpoint import huggingface
from sewkit.config import Dropout
from sewkit.data.batch import make_batch
from sewkit.model.model import Masks
from sewkit.objectives.contrastive import Contrastive, Draws, draw_negatives, load_contrastive
from sewkit.objectives.masking import equal_masks, span_masks
from sewkit.objectives.random import RowRandom
from sewkit.testing import TOYS, synthetic_speech

transformers = pytest.importorskip("transformers")

NO_DROPOUT = Dropout(hidden=0, attention=0, activation=0, input=0, final=0, layerdrop=0)
NUM_SAMPLES, NUM_FRAMES, NUM_ROWS = 16_000, 49, 3


@pytest.fixture(autouse=True)
def quiet_transformers() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(params=["w2v2", "w2v2-prenorm"])
def pair(request: pytest.FixtureRequest, tmp_path: Path):
    """Theirs with random weights, and ours read from the folder that they wrote."""
    ours = TOYS[request.param].replace(vocab_size=None, dropout=NO_DROPOUT, normalize_input=False)
    raw = huggingface.write_config(ours, None, None, torch.float32)
    del raw["architectures"], raw["torch_dtype"]
    more = {"num_codevectors_per_group": 10, "codevector_dim": 16, "proj_codevector_dim": 12, "num_negatives": 15}
    torch.manual_seed(0)
    theirs = transformers.Wav2Vec2ForPreTraining(transformers.Wav2Vec2Config(**{**raw, **more}))
    theirs.save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    return theirs, load_contrastive(tmp_path)


def drawn() -> Draws:
    random = RowRandom(torch.arange(NUM_ROWS))
    masks = span_masks(torch.full((NUM_ROWS,), NUM_FRAMES), NUM_FRAMES, 0.65, 10, random, 2)
    masks = equal_masks(masks, random)
    return Draws(Masks(masks, None), draw_negatives(random, int(masks[0].sum()), 15), None)


def their_outputs(theirs, waveforms: torch.Tensor, draws: Draws):
    """They number negatives by frame, of the whole batch; at frames that are not masked they are not looked at."""
    masks = draws.masks.time
    sampled = torch.zeros(NUM_ROWS, NUM_FRAMES, draws.negatives.shape[2], dtype=torch.int64)
    for row in range(NUM_ROWS):
        frames = masks[row].nonzero()[:, 0]
        sampled[row, frames] = frames[draws.negatives[row]] + row * NUM_FRAMES
    return theirs(waveforms, mask_time_indices=masks, sampled_negative_indices=sampled)


def our_loss(contrastive: Contrastive, waveforms: torch.Tensor, draws: Draws):
    batch = make_batch([waveform.numpy() for waveform in waveforms], [""] * NUM_ROWS, None)
    features, lengths = contrastive.extract(batch)
    return contrastive.score(features, lengths, draws, temperature=2.0)


def test_loss_and_gradients_are_those_of_transformers(pair) -> None:
    """Summed losses within 1e-5 of themselves; gradients of the contrastive part within 1e-4 of the largest entry."""
    theirs, contrastive = pair
    waveforms = torch.stack([torch.from_numpy(synthetic_speech(NUM_SAMPLES, seed)) for seed in range(NUM_ROWS)])
    draws = drawn()
    expected = their_outputs(theirs.eval(), waveforms, draws)
    loss = our_loss(contrastive.eval(), waveforms, draws)
    total = float(loss.metrics["contrastive"]) * loss.count
    assert total == pytest.approx(expected.contrastive_loss.item(), rel=1e-5)
    assert float(loss.metrics["code_perplexity"]) == pytest.approx(expected.codevector_perplexity.item(), rel=1e-5)
    assert float(loss.metrics["feature_penalty"]) == 0.0
    expected.contrastive_loss.backward()
    (loss.total - loss.metrics["diversity"] * loss.count).backward()
    for ours, other in (
        (contrastive.context_head.weight, theirs.project_hid.weight),
        (contrastive.target_head.weight, theirs.project_q.weight),
        (contrastive.quantizer.codebook, theirs.quantizer.codevectors),
        (contrastive.model.mask_embedding, theirs.wav2vec2.masked_spec_embed),
        (contrastive.model.projection.weight, theirs.wav2vec2.feature_projection.projection.weight),
    ):
        difference = (ours.grad.flatten() - other.grad.flatten()).abs().max()
        assert float(difference) <= 1e-4 * float(other.grad.abs().max())


def test_diversity_in_training_is_that_of_transformers(pair) -> None:
    """It knows no Gumbel noise, so theirs can be compared although theirs draws some."""
    theirs, contrastive = pair
    waveforms = torch.stack([torch.from_numpy(synthetic_speech(NUM_SAMPLES, seed)) for seed in range(NUM_ROWS)])
    draws = drawn()
    expected = their_outputs(theirs.train(), waveforms, draws)
    loss = our_loss(contrastive.train(), waveforms, draws)
    diversity = 0.1 * expected.diversity_loss.item()  # theirs is before its weight
    assert float(loss.metrics["diversity"]) * loss.count == pytest.approx(diversity, rel=1e-5)

"""Forms for inference against the modules that define them: every family, every operating point, any length.

Tolerance 1e-4 on outputs unless stated: float32 sums in another order, measured below 1e-5.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sewkit.compute import operating_points
from sewkit.config import ModelConfig
from sewkit.model import SpeechModel
from sewkit.model.disentangled import DisentangledAttention, RelativePositions
from sewkit.model.squeeze import PositionalConv
from sewkit.runtime import disentangled, folding, product
from sewkit.runtime.disentangled import Block, BlockwiseAttention, PositionBlocks
from sewkit.runtime.folding import SpectralConv, TiledExtractor, WindowConv, prepare
from sewkit.runtime.pytorch import TorchRuntime
from sewkit.testing import STOCHASTIC_TOYS, TOYS, padded_batch, synthetic_speech, toy_model

TOLERANCE = 1e-4
ALL = {**TOYS, **STOCHASTIC_TOYS}
NUM_SAMPLES = (32_000, 16_000, 10_050, 9_871, 5_003, 1_040, 640, 400, 399, 0)
"""99, 49, 31, 30, 15, 3, 1, 1, 0, 0 frames."""


def clips() -> list[np.ndarray]:
    return [synthetic_speech(size, seed) for seed, size in enumerate(NUM_SAMPLES)]


def assert_rows_close(found: Tensor, expected: Tensor, lengths: Tensor, tolerance: float = TOLERANCE) -> None:
    for one, other, length in zip(found, expected, lengths.tolist(), strict=True):
        torch.testing.assert_close(one[:length], other[:length], atol=tolerance, rtol=0)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles and blocks of a few frames and one head, so that short clips have several.

    wav2vec 2.0's toy kernel counts as long.
    """
    monkeypatch.setattr(folding, "WINDOW_TAPS", 15)
    monkeypatch.setattr(folding, "TILE_FRAMES", 7)
    monkeypatch.setattr(disentangled, "QUERIES", (5, 5))
    monkeypatch.setattr(disentangled, "TABLE_PRODUCTS", 0)
    monkeypatch.setattr(disentangled, "LEAST_HEADS", 1)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("packed_from", [0, 1 << 62], ids=["packed", "plain"])
@pytest.mark.parametrize("name", ALL)
def test_a_prepared_model_gives_what_the_model_gives(
    name: str, packed_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "PACKED_FROM", packed_from)
    model = toy_model(name)
    prepared, batch = prepare(model), padded_batch(clips())
    for point in operating_points(model.config):
        expected, lengths = model(*batch, point)
        found, found_lengths = prepared(*batch, point)
        assert found_lengths.tolist() == lengths.tolist()
        assert found.isfinite().all()
        assert_rows_close(found, expected, lengths)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [0, 1, 399, 400, 720, 7 * 320 + 80, 8 * 320 + 80, 16_000, 16_001])
@pytest.mark.parametrize("name", ["w2v2", "w2v2-prenorm", "sew-d"])
def test_a_clip_alone_of_any_length(name: str, size: int) -> None:
    model = toy_model(name)
    batch = padded_batch([synthetic_speech(size)])
    (expected, lengths), (found, _) = model(*batch), prepare(model)(*batch)
    assert found.shape == expected.shape
    assert_rows_close(found, expected, lengths)


def test_preparing_leaves_the_model_as_it_is_and_shares_its_large_weights() -> None:
    model = toy_model("sew-d")
    names, extractor = list(model.state_dict()), model.features
    prepared = prepare(model)
    assert list(model.state_dict()) == names
    assert model.features is extractor
    assert prepared.encoder.layers[0].feed_forward[0].weight is model.encoder.layers[0].feed_forward.up.weight
    assert isinstance(prepared.features, TiledExtractor)
    assert isinstance(prepared.encoder.layers[0].attention, BlockwiseAttention)


@pytest.mark.parametrize(
    ("form", "kernel"), [(WindowConv, 1), (WindowConv, 2), (WindowConv, 15), (SpectralConv, 15), (SpectralConv, 16)]
)
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_positional_convolutions_are_that_of_the_model(form: type, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    position = PositionalConv(12, kernel, 3)
    position.weight_g.copy_(torch.rand_like(position.weight_g) + 0.5)
    position.bias.normal_()
    for frames in (4, 5, 33, 64):
        x = torch.randn(2, frames, 12)
        expected = position(x, stride)
        used = frames // stride
        torch.testing.assert_close(form(position)(x, stride)[:, :used], expected[:, :used], atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("unit", [None, 2])
@pytest.mark.parametrize("pools", [(1, 1), (2, 1), (1, 2), (2, 3), (3, 2)])
@pytest.mark.parametrize("frames", [1, 2, 11, 60])
def test_blockwise_attention_is_the_formula_of_sew_d(frames: int, pools: tuple[int, int], unit: int | None) -> None:
    """At 60 frames most pairs are further apart than the table of 16 positions reaches."""
    torch.manual_seed(0)
    attention = DisentangledAttention(16, 2, dropout=0.0, position_dropout=0.0).eval()
    positions = RelativePositions(16, num_buckets=8, max_positions=16, eps=1e-7, unit=unit).eval()
    blockwise, blocks = BlockwiseAttention(attention, positions), PositionBlocks(positions)
    for squeeze in (1, 2, 3, 4):
        arguments = (frames, *pools, squeeze)
        query = torch.randn(2, 2, -(-frames // pools[0]), 8)
        key, value = torch.randn(2, 2, 2, -(-frames // pools[1]), 8)
        expected = attention.attend(query, key, value, None, positions(*arguments))
        found = blockwise.attend(query, key, value, None, blocks(*arguments))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_blocks_hold_no_more_pairs_than_the_table_reaches() -> None:
    positions = RelativePositions(8, num_buckets=8, max_positions=16, eps=1e-7)
    for frames in (1_000, 2_000):
        blocks = PositionBlocks(positions)(frames).blocks
        size = blocks[0].stop
        assert size * frames <= disentangled.SCORES
        assert max(block.rows.numel() for block in blocks if isinstance(block, Block)) <= size * (size + 2 * 32)


def _bfloat16(config: ModelConfig) -> tuple[SpeechModel, TorchRuntime]:
    return toy_model(config), TorchRuntime(toy_model(config), torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize("name", ["w2v2", "w2v2-prenorm", "sew", "sew-d", "stochastic-sew-d"])
def test_bfloat16_stays_near_and_what_shares_a_batch_changes_little(name: str) -> None:
    """Relative to the logits' norm: 5 % from float32, 2 % from what the clip gives alone."""
    model, runtime = _bfloat16(TOYS[name] if name in TOYS else STOCHASTIC_TOYS[name])
    waveforms = [waveform for waveform in clips() if len(waveform) >= 5_003]
    expected, lengths = model(*padded_batch(waveforms))
    for waveform, found, row, length in zip(
        waveforms, runtime.logits(waveforms), expected, lengths.tolist(), strict=True
    ):
        exact, alone = row[:length].numpy(), runtime.logits([waveform])[0]
        assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)
        assert np.linalg.norm(found - alone) < 0.02 * np.linalg.norm(exact)


def test_states_are_kept_where_the_head_mixes_them_only() -> None:
    config = TOYS["sew"].replace(vocab_size=None, num_labels=3)
    waveforms, lengths = torch.randn(1, 8_000), torch.tensor([8_000])
    for mixes in (False, True):
        model = toy_model(config.replace(weighted_layer_sum=mixes)).eval()
        ready = prepare(model)
        torch.testing.assert_close(ready(waveforms, lengths)[0], model(waveforms, lengths)[0], atol=1e-5, rtol=1e-5)
        assert len(ready.encode(waveforms, lengths).states) == (config.num_layers + 1 if mixes else 1)
        assert len(model.encode(waveforms, lengths).states) == config.num_layers + 1

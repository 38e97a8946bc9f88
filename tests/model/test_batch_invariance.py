"""What shares a batch never changes a result: every family, every head, odd and even frame counts, clips of no frame.

Tolerance 1e-4 on logits and encoder outputs: the same arithmetic in another order of summation, measured below 1e-5.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sewkit.lengths import informed_length
from sewkit.model import SpeechModel
from sewkit.testing import TOYS, padded_batch, synthetic_speech, toy_model

TOLERANCE = 1e-4
NUM_SAMPLES = (32_000, 16_000, 10_050, 9_871, 5_003, 1_040, 720, 640, 400, 399, 1, 0)
"""99, 49, 31, 30, 15, 3, 2, 1, 1, 0, 0, 0 frames: odd and even, fewer than one squeezed frame, none."""


def clips() -> list[np.ndarray]:
    return [synthetic_speech(size, seed) for seed, size in enumerate(NUM_SAMPLES)]


def run(model: SpeechModel, waveforms: list[np.ndarray]) -> list[torch.Tensor]:
    """Valid frames of the head's output (or its scores) for each waveform, from one batch."""
    with torch.inference_mode():
        output, lengths = model(*padded_batch(waveforms))
    return [row[:length] if row.dim() == 2 else row for row, length in zip(output, lengths.tolist(), strict=True)]


def encode(model: SpeechModel, waveforms: list[np.ndarray]) -> list[torch.Tensor]:
    with torch.inference_mode():
        encoded = model.encode(*padded_batch(waveforms))
    return [row[:length] for row, length in zip(encoded.frames, encoded.lengths.tolist(), strict=True)]


def assert_same(together: list[torch.Tensor], alone: list[torch.Tensor]) -> None:
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        assert one.shape == other.shape
        assert one.isfinite().all()
        difference = (one - other).abs().amax() if one.numel() else 0.0
        assert difference < TOLERANCE, f"clip {number} of {NUM_SAMPLES[number]} samples: {difference}"


@pytest.mark.parametrize("name", TOYS)
def test_a_batch_gives_what_each_clip_gives_alone(name: str) -> None:
    model, waveforms = toy_model(name), clips()
    assert_same(run(model, waveforms), [run(model, [waveform])[0] for waveform in waveforms])
    assert_same(encode(model, waveforms), [encode(model, [waveform])[0] for waveform in waveforms])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["w2v2", "w2v2-prenorm", "sew", "sew-d-s3"])
def test_classification_of_a_batch_is_that_of_each_clip_alone(name: str, weighted: bool) -> None:
    model = toy_model(TOYS[name].replace(vocab_size=None, num_labels=5, weighted_layer_sum=weighted))
    waveforms = clips()
    assert_same(run(model, waveforms), [run(model, [waveform])[0] for waveform in waveforms])


@pytest.mark.parametrize("name", TOYS)
def test_what_stands_in_the_padding_plays_no_part(name: str) -> None:
    model = toy_model(name)
    batch, lengths = padded_batch(clips())
    dirty = batch.clone()
    for row, length in zip(dirty, lengths.tolist(), strict=True):
        row[length:] = torch.randn(len(row) - length) * 100
    with torch.inference_mode():
        clean_output, frames = model(batch, lengths)
        dirty_output, _ = model(dirty, lengths)
    for clean, other, length in zip(clean_output, dirty_output, frames.tolist(), strict=True):
        torch.testing.assert_close(clean[:length], other[:length], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", TOYS)
def test_clips_shorter_than_a_frame_give_finite_output_of_length_zero(name: str) -> None:
    model = toy_model(name)
    for size in (0, 1, 399):
        batch, lengths = padded_batch([synthetic_speech(size)])
        with torch.inference_mode():
            output, frames = model(batch, lengths)
        assert frames.tolist() == [0]
        assert output.isfinite().all()


@pytest.mark.parametrize("name", [name for name in TOYS if name.startswith("sew")])
@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 7, 30, 31, 49])
def test_frames_without_a_squeezed_one_are_zero_and_their_logits_the_bias(name: str, num_frames: int) -> None:
    model = toy_model(name)
    waveform = synthetic_speech(400 + 320 * (num_frames - 1))
    informed = informed_length(num_frames, model.config.squeeze_factor)
    frames, logits = encode(model, [waveform])[0], run(model, [waveform])[0]
    assert frames.shape[0] == num_frames
    assert not frames[informed:].any()
    torch.testing.assert_close(logits[informed:], model.head.bias.expand(num_frames - informed, -1), atol=1e-6, rtol=0)
    assert frames[:informed].any(1).all()


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(["w2v2", "w2v2-prenorm", "sew", "sew-s3", "sew-d"]),
    sizes=st.lists(st.integers(0, 8_000), min_size=2, max_size=4),
)
def test_any_batch_gives_what_each_clip_gives_alone(name: str, sizes: list[int]) -> None:
    model = toy_model(name)
    waveforms = [synthetic_speech(size, seed) for seed, size in enumerate(sizes)]
    for together, waveform in zip(run(model, waveforms), waveforms, strict=True):
        torch.testing.assert_close(together, run(model, [waveform])[0], atol=TOLERANCE, rtol=0)

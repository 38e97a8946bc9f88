"""Length rules and masks against what the layers themselves give."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sewkit import lengths
from sewkit.config import PUBLISHED
from sewkit.testing import TOYS, toy_model

LAYERS = PUBLISHED["sew-tiny"].conv_layers
SAMPLES = st.integers(0, 100_000)


@given(length=st.integers(0, 300), kernel=st.integers(1, 12), stride=st.integers(1, 6))
def test_conv_length_is_what_a_convolution_gives(length: int, kernel: int, stride: int) -> None:
    found = lengths.conv_length(length, kernel, stride)
    if length < kernel:
        assert found == 0
    else:
        assert found == nn.Conv1d(1, 1, kernel, stride)(torch.zeros(1, 1, length)).shape[2]


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (719, 1), (720, 2), (16_000, 49)])
def test_num_frames_of_the_published_extractors(samples: int, frames: int) -> None:
    for config in PUBLISHED.values():
        assert lengths.num_frames(samples, config.conv_layers) == frames


@given(samples=SAMPLES)
def test_num_frames_follows_from_hop_and_receptive_field(samples: int) -> None:
    assert lengths.num_frames(samples, LAYERS) == max(0, (samples - 400) // 320 + 1)


@given(samples=st.lists(SAMPLES, min_size=1, max_size=5), factor=st.integers(1, 5))
def test_rules_agree_on_numbers_and_tensors(samples: list[int], factor: int) -> None:
    tensor = torch.tensor(samples)
    assert lengths.num_frames(tensor, LAYERS).tolist() == [lengths.num_frames(n, LAYERS) for n in samples]
    assert lengths.squeezed_length(tensor, factor).tolist() == [lengths.squeezed_length(n, factor) for n in samples]
    assert lengths.informed_length(tensor, factor).tolist() == [lengths.informed_length(n, factor) for n in samples]


@given(frames=st.integers(0, 1000), factor=st.integers(1, 5))
def test_the_zero_tail_is_shorter_than_a_squeezed_frame(frames: int, factor: int) -> None:
    assert 0 <= frames - lengths.informed_length(frames, factor) < factor


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_min_samples_is_the_least_for_one_squeezed_frame(factor: int) -> None:
    least = lengths.min_samples(LAYERS, factor)
    assert lengths.squeezed_length(lengths.num_frames(least, LAYERS), factor) == 1
    assert lengths.squeezed_length(lengths.num_frames(least - 1, LAYERS), factor) == 0


@pytest.mark.parametrize("name", TOYS)
def test_lengths_are_the_shapes_of_a_clip_alone(name: str) -> None:
    model = toy_model(name)
    for samples in (5_003, 9_871, 16_000):
        with torch.inference_mode():
            encoded = model.encode(torch.zeros(1, samples), torch.tensor([samples]))
        assert (
            encoded.frames.shape[1] == encoded.lengths.item() == lengths.num_frames(samples, model.config.conv_layers)
        )
        assert all(state.shape[1] == encoded.state_lengths.item() for state in encoded.states)


def test_masks_mark_the_start_of_a_row() -> None:
    rows = torch.tensor([3, 0, 2])
    assert lengths.valid_mask(rows, 3).tolist() == [[True] * 3, [False] * 3, [True, True, False]]
    assert lengths.zero_padding(torch.ones(3, 3, 1), rows)[:, :, 0].tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 0]]


def test_key_mask_leaves_one_key_to_an_empty_row_and_is_none_without_padding() -> None:
    mask = lengths.key_mask(torch.tensor([2, 0]), 2)
    assert mask is not None
    assert mask[:, 0, 0].tolist() == [[True, True], [True, False]]
    assert lengths.key_mask(torch.tensor([2, 2]), 2) is None

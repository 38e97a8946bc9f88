"""The toys themselves: small, repeatable, and sensitive to what tests look for."""

import numpy as np
import pytest
import torch

from sewkit.testing import TOYS, padded_batch, synthetic_speech, toy_model


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_small_and_repeatable_and_no_tensor_is_constant(name: str) -> None:
    model, again, other = toy_model(name), toy_model(name), toy_model(name, seed=1)
    assert model.num_parameters() < 100_000
    assert not model.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])
        assert not torch.equal(tensor, other.state_dict()[key])
        assert tensor.unique().numel() > 1, key


@pytest.mark.parametrize("name", TOYS)
def test_the_output_of_a_toy_follows_the_sound(name: str) -> None:
    model = toy_model(name)
    with torch.inference_mode():
        logits, _ = model(*padded_batch([synthetic_speech(32_000)]))
    informed = logits[0, :: model.config.squeeze_factor][:-1]
    assert informed.std(0).mean() > 0.15


def test_synthetic_speech_is_repeatable_and_of_any_length() -> None:
    assert np.array_equal(synthetic_speech(1000, 3), synthetic_speech(1000, 3))
    assert not np.array_equal(synthetic_speech(1000, 3), synthetic_speech(1000, 4))
    assert synthetic_speech(0).shape == (0,)
    assert synthetic_speech(50_000).dtype == np.float32
    assert 0.1 < np.abs(synthetic_speech(50_000)).max() < 1

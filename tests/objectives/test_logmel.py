"""Log-mel regression: the target, and that an extractor learns from it."""

import numpy as np
import pytest
import torch

from sewkit.config import ModelConfig, compact_conv_layers
from sewkit.data.batch import make_batch
from sewkit.model import build_model
from sewkit.objectives.logmel import NUM_BANDS, LogMel, log_mel, mel_filters
from sewkit.testing import TOYS, toy_model
from sewkit.text import Alphabet


def tone(hertz, seconds=0.5):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16_000)) / 16_000).astype(np.float32)


def test_filters_cover_all_frequencies_between_their_first_and_last_peak():
    filters = mel_filters()
    assert filters.shape == (257, NUM_BANDS)
    assert (filters.sum(dim=1)[4:250] > 0.1).all()


def test_a_tone_is_loudest_in_bands_that_rise_with_its_frequency():
    loudest = [
        int(log_mel(torch.from_numpy(tone(hertz))[None]).mean(dim=1).argmax()) for hertz in (200, 800, 3000, 7000)
    ]
    assert loudest == sorted(set(loudest))


@pytest.mark.parametrize("num_samples", [400, 719, 720, 16_000])
def test_frames_are_those_of_the_extractor(num_samples):
    config = ModelConfig(
        family="sew", conv_layers=compact_conv_layers(4), hidden_size=32, num_layers=1, num_heads=1, ffn_size=32
    )
    features, frame_lengths = build_model(config).features(torch.randn(1, num_samples), torch.tensor([num_samples]))
    assert log_mel(torch.randn(1, num_samples)).shape[1] == features.shape[1] == int(frame_lengths)


def test_a_batch_of_no_rows_counts_nothing_and_has_a_way_back():
    """The share that a process may have of a small update."""
    objective = LogMel(toy_model(TOYS["sew"])).train()
    loss = objective(make_batch([], [], None))
    loss.total.backward()
    assert (float(loss.total.detach()), loss.count) == (0.0, 0)
    assert not any(parameter.grad.any() for parameter in objective.head.parameters())


def test_the_extractor_learns_more_than_the_mean_in_a_few_updates():
    torch.manual_seed(0)
    config = ModelConfig(
        family="sew", conv_layers=compact_conv_layers(8), hidden_size=64, num_layers=1, num_heads=1, ffn_size=64
    )
    objective = LogMel(build_model(config))
    generator = np.random.default_rng(0)
    sounds = [tone(f, 0.3) * generator.uniform(0.1, 1) for f in generator.uniform(100, 6000, 8)]
    batch = make_batch(sounds, [""] * len(sounds), Alphabet.english())
    optimizer = torch.optim.Adam([*objective.model.features.parameters(), *objective.head.parameters()], 3e-3)
    for _ in range(40):
        loss = objective(batch)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.total.item() < 0.7  # 1.0 is the mean of every band

"""Augmentation does what it says, and only from the generator handed in."""

import numpy as np
import pytest

from sewkit.data.augment import (
    Augmentation,
    Augmenter,
    _fast_length,
    add_noise,
    change_speed,
    coloured_noise,
    gain,
    sound_span,
    trim_silence,
)


def tone(hertz, seconds=1.0):
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * 16_000)) / 16_000)).astype(np.float32)


def loudest_hertz(samples):
    return float(np.abs(np.fft.rfft(samples)).argmax() * 16_000 / samples.size)


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
def test_speed_moves_length_and_pitch_together(factor):
    changed = change_speed(tone(500), factor)
    assert changed.size == pytest.approx(16_000 / factor, abs=2)
    assert loudest_hertz(changed) == pytest.approx(500 * factor, rel=0.01)


def test_trimming_keeps_the_sound_and_a_margin():
    samples = np.concatenate([np.zeros(8000, np.float32), tone(500, 0.2), np.zeros(4000, np.float32)])
    assert sound_span(samples) == (8000, 11_200)
    assert trim_silence(samples, keep_seconds=0.05).size == 3200 + 2 * 800
    assert trim_silence(np.zeros(50, np.float32)).size == 50


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 20.0])
def test_noise_has_the_ratio_asked_for_and_pauses_do_not_count(snr_db):
    samples = np.concatenate([tone(500), np.zeros(48_000, np.float32)])
    noise = coloured_noise(samples.size, 0.0, np.random.default_rng(0))
    added = add_noise(samples, noise, snr_db) - samples
    ratio = 10 * np.log10(np.mean(tone(500) ** 2) / np.mean(added**2))
    assert ratio == pytest.approx(snr_db, abs=0.5)


def test_noise_on_silence_is_finite_and_audible():
    silent = np.zeros(16_000, np.float32)
    noisy = add_noise(silent, coloured_noise(16_000, 1.0, np.random.default_rng(0)), 10.0)
    assert np.isfinite(noisy).all()
    assert noisy.std() > 1e-4


def test_gain_never_clips():
    loud = gain(tone(300), 30.0)
    assert np.abs(loud).max() == pytest.approx(1.0)
    assert np.corrcoef(loud, tone(300))[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_the_telephone_band_ends_at_four_kilohertz():
    augmenter = Augmenter(Augmentation(telephone_probability=1.0))
    samples = coloured_noise(16_000, 0.0, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(augmenter.string(samples, np.random.default_rng(1)))) ** 2
    assert spectrum[4500:].sum() < 1e-3 * spectrum.sum()  # bins of 1 Hz


def test_a_room_keeps_the_length_and_the_direct_sound_in_place():
    response = np.zeros(8000, np.float32)
    response[[100, 900]] = 1.0, 0.4
    click = np.zeros(16_000, np.float32)
    click[5000] = 0.5
    wet = Augmenter(Augmentation(room_probability=1.0), rooms=[response]).string(click, np.random.default_rng(0))
    assert wet.size == click.size
    assert np.abs(wet).argmax() == 5000
    assert np.abs(wet[5800]) == pytest.approx(0.4 * np.abs(wet[5000]), rel=1e-3)


def test_default_settings_change_nothing():
    augmenter, generator = Augmenter(Augmentation()), np.random.default_rng(0)
    assert np.array_equal(augmenter.string(augmenter.word(tone(400), generator), generator), tone(400))


def test_everything_is_a_function_of_the_generator():
    settings = Augmentation(
        speed=(0.8, 1.25), word_gain_db=(-6, 6), trim_probability=0.5, tilt_db=6, noise_probability=1.0, gain_db=(-6, 6)
    )
    made = []
    for seed in (1, 1, 2):
        generator = np.random.default_rng(seed)
        augmenter = Augmenter(settings)
        made.append(augmenter.string(augmenter.word(tone(400), generator), generator))
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])
    assert all(samples.dtype == np.float32 for samples in made)


@pytest.mark.parametrize("size", [1, 2, 3, 17, 1000, 16_000, 100_001])
def test_fast_lengths_are_long_enough_and_not_much_longer(size):
    assert size <= _fast_length(size) <= max(2 * size, 4)

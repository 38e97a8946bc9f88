"""Frame labels of the flat start."""

import dataclasses

import numpy as np
import torch

from sewkit.data.batch import make_batch
from sewkit.objectives.flat_start import IGNORED, FlatStart, frame_labels
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()


def batch_of(spans, texts, num_samples=16_000):
    waveforms = [np.zeros(num_samples, dtype=np.float32) for _ in texts]
    return dataclasses.replace(make_batch(waveforms, texts, ALPHABET), spans=spans)


def test_letters_share_the_sound_of_their_word_equally():
    batch = batch_of([[(200, 200 + 320 * 10)]], ["ON"])
    labels = frame_labels(batch, torch.tensor([49]), 49, ALPHABET)[0]
    on = ALPHABET.encode("ON")
    assert labels[:10].tolist() == [on[0]] * 5 + [on[1]] * 5
    assert set(labels[10:].tolist()) == {ALPHABET.blank}


def test_collapsed_labels_spell_the_text():
    batch = batch_of([[(1000, 5000), (7000, 12_000)]], ["SIX ONE"])
    labels = frame_labels(batch, torch.tensor([49]), 49, ALPHABET)[0]
    assert ALPHABET.collapse(labels.tolist()) == "SIX ONE"


def test_padding_is_ignored_and_no_speech_is_blank():
    batch = batch_of([[], []], ["", ""])
    labels = frame_labels(batch, torch.tensor([49, 20]), 49, ALPHABET)
    assert (labels[0] == ALPHABET.blank).all()
    assert (labels[1, 20:] == IGNORED).all()


def test_a_word_at_the_very_end_stays_inside():
    batch = batch_of([[(15_900, 16_000)]], ["SEVEN"])
    assert frame_labels(batch, torch.tensor([49]), 49, ALPHABET).shape == (1, 49)


def test_the_loss_falls_to_zero_for_the_labels_themselves():
    batch = batch_of([[(1000, 5000)]], ["NO"])
    labels = frame_labels(batch, torch.tensor([49]), 49, ALPHABET)

    class Right(torch.nn.Module):
        config = None

        def forward(self, waveforms, sample_lengths, compute=None, masks=None):
            return 50.0 * torch.nn.functional.one_hot(labels, len(ALPHABET)).float(), torch.tensor([49])

    loss = FlatStart(Right(), ALPHABET)(batch)
    assert loss.total.item() < 1e-6
    assert loss.metrics["right_letters"] == 1.0

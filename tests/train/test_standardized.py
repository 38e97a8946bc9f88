"""A head that learns on standardised frames is a plain head before and after."""

import torch

from sewkit.data.batch import Batch
from sewkit.model import SpeechModel
from sewkit.testing import TOYS, toy_model
from sewkit.train.standardized import StandardizedLinear, fold_head, frame_statistics, standardize_head

CPU = torch.device("cpu")
LENGTHS = torch.tensor([16_000, 9_000, 12_345])


def _model(**changes: bool) -> SpeechModel:
    return toy_model(TOYS["sew"].replace(vocab_size=None, num_labels=3, **changes))


def _batch() -> Batch:
    waveforms = torch.randn(3, 16_000)
    waveforms *= torch.arange(16_000) < LENGTHS[:, None]
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(waveforms=waveforms, sample_lengths=LENGTHS, labels=nothing, label_lengths=nothing, texts=[])


def test_neither_standardising_nor_folding_changes_a_score() -> None:
    for mixed in (False, True):
        torch.manual_seed(0)
        model, batch = _model(weighted_layer_sum=mixed), _batch()
        names = list(model.state_dict())
        expected, _ = model(batch.waveforms, batch.sample_lengths)
        standardize_head(model, [batch], CPU)
        found, _ = model(batch.waveforms, batch.sample_lengths)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        fold_head(model)
        found, _ = model(batch.waveforms, batch.sample_lengths)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert list(model.state_dict()) == names


def test_what_is_learned_stays_when_it_is_folded() -> None:
    torch.manual_seed(0)
    model, batch = _model(), _batch()
    standardize_head(model, [batch], CPU)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("head."):
                parameter.normal_()
    expected, _ = model(batch.waveforms, batch.sample_lengths)
    fold_head(model)
    found, _ = model(batch.waveforms, batch.sample_lengths)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_statistics_are_those_of_all_valid_frames() -> None:
    torch.manual_seed(0)
    model, batch = _model(), _batch()
    encoded = model.encode(batch.waveforms, batch.sample_lengths)
    frames = torch.cat([row[:length] for row, length in zip(encoded.frames, encoded.lengths.tolist(), strict=True)])
    mean, deviation = frame_statistics(model, [batch, batch], CPU)
    torch.testing.assert_close(mean, frames.mean(0), atol=1e-5, rtol=1e-5)
    floor = 1e-2 * frames.std(0, correction=0).mean()
    torch.testing.assert_close(deviation, frames.std(0, correction=0).clamp(min=floor), atol=1e-5, rtol=1e-4)


def test_the_layer_multiplies_standardised_inputs() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 3)
    mean, deviation = torch.randn(4), torch.rand(4) + 0.1
    standardized = StandardizedLinear(linear, mean, deviation)
    x = torch.randn(5, 4)
    torch.testing.assert_close(standardized(x), linear(x))
    torch.testing.assert_close(standardized.weight, linear.weight * deviation)

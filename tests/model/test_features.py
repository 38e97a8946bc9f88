"""The extractor's own forms against PyTorch's conv1d and group_norm, values and gradients, whatever the length.

Tolerances are those of float32 sums in another order, unless stated.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sewkit.model.features import ConvBlock, FeatureExtractor, InstanceNorm, conv_channels_last
from sewkit.testing import TOYS, padded_batch, synthetic_speech, toy_model

SAMPLES = (400, 720, 1_041, 5_003, 16_000)
"""1, 2, 3, 15 and 49 frames."""


def plain(extractor: FeatureExtractor, waveforms: Tensor) -> Tensor:
    """What the extractor computes for rows without padding, as the paper writes it: (B, S) -> (B, T, C)."""
    x = waveforms[:, None]
    for block in extractor.blocks:
        assert isinstance(block, ConvBlock)
        x = F.conv1d(x, block.conv.weight, block.conv.bias, block.conv.stride)
        if isinstance(block.norm, InstanceNorm):
            x = F.group_norm(x, x.shape[1], block.norm.weight, block.norm.bias, block.norm.eps)
        elif block.norm is not None:
            x = block.norm(x.transpose(1, 2)).transpose(1, 2)
        x = F.gelu(x)
    return x.transpose(1, 2)


def gradients(output: Tensor, extractor: FeatureExtractor) -> dict[str, Tensor]:
    names, parameters = zip(*extractor.named_parameters(), strict=True)
    direction = torch.linspace(-1, 1, output.numel()).reshape(output.shape)
    return dict(zip(names, torch.autograd.grad((output * direction).sum(), parameters), strict=True))


@pytest.mark.parametrize("size", SAMPLES)
@pytest.mark.parametrize("name", ["w2v2", "w2v2-prenorm", "sew"])
def test_values_and_gradients_are_those_of_plain_convolutions(name: str, size: int) -> None:
    extractor = toy_model(name).features.double()
    waveforms = torch.stack([torch.from_numpy(synthetic_speech(size, seed)).double() for seed in range(2)])
    found, _ = extractor(waveforms, torch.tensor([size, size]))
    expected = plain(extractor, waveforms)
    torch.testing.assert_close(found, expected)
    expected_gradients = gradients(expected, extractor)
    for parameter, gradient in gradients(found, extractor).items():
        # The frames' statistics make the first layer's gradients differences of large terms.
        scale = expected_gradients[parameter].abs().max().clamp(min=1e-6)
        torch.testing.assert_close(gradient / scale, expected_gradients[parameter] / scale, atol=1e-7, rtol=0)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 2), (3, 1)])
@pytest.mark.parametrize("frames", [3, 4, 8, 9])
def test_convolution_of_channels_last_frames_is_conv1d(kernel: int, stride: int, frames: int) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, frames, 6), torch.randn(5, 6, kernel), torch.randn(5)
    found = conv_channels_last(x, weight, bias, stride)
    expected = F.conv1d(x.transpose(1, 2), weight, bias, stride).transpose(1, 2)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected)


def test_normalisation_holds_for_sound_with_an_offset_a_hundred_times_its_size() -> None:
    """Float32 against float64 without the offset, which a norm over time takes out: 1e-3 of unit-variance outputs."""
    extractor = toy_model("w2v2").features
    waveforms, lengths = padded_batch([synthetic_speech(8_000)])
    first = extractor.blocks[0]
    found, _ = first((waveforms + 10.0)[:, :, None], lengths)
    expected, _ = first.double()(waveforms.double()[:, :, None], lengths)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)


def test_silence_gives_the_bias_of_the_norm() -> None:
    first = toy_model("sew").features.blocks[0]
    found, _ = first(torch.full((1, 4_000, 1), 0.25), torch.tensor([4_000]))
    torch.testing.assert_close(found, F.gelu(first.norm.bias).expand_as(found))


def test_a_bias_before_the_norm_changes_nothing_and_has_a_gradient_of_zero() -> None:
    config = TOYS["w2v2"].replace(conv_bias=True)
    extractor = toy_model(config).features
    batch, lengths = padded_batch([synthetic_speech(5_003)])
    output, _ = extractor(batch, lengths)
    torch.testing.assert_close(output, plain(extractor, batch), atol=1e-5, rtol=1e-4)
    output.sum().backward()
    assert not extractor.blocks[0].conv.bias.grad.any()


def test_bfloat16_autocast_keeps_the_sound_of_it() -> None:
    """Relative error of the features below 3 %: eight bits of mantissa, through seven layers."""
    extractor = toy_model("w2v2").features
    batch, lengths = padded_batch([synthetic_speech(16_000), synthetic_speech(9_871, 1)])
    exact, frames = extractor(batch, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = extractor(batch, lengths)
    rough.float().square().mean().backward()
    for one, other, length in zip(exact, rough.float(), frames.tolist(), strict=True):
        assert (one[:length] - other[:length]).norm() < 0.03 * one[:length].norm()
    assert all(parameter.grad.isfinite().all() for parameter in extractor.parameters())

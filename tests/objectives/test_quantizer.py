"""The quantiser against the plain way to write it: a one-hot times the whole code book."""

import pytest
import torch
from torch.nn import functional

from sewkit.objectives.quantizer import GumbelQuantizer, temperature_at
from sewkit.objectives.random import RowRandom

GROUPS, ENTRIES, WIDTH = 2, 7, 12


@pytest.fixture
def quantizer() -> GumbelQuantizer:
    torch.manual_seed(0)
    return GumbelQuantizer(feature_size=10, groups=GROUPS, entries=ENTRIES, vq_dim=WIDTH)


def features_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return features, RowRandom(torch.arange(3)).gumbel(5, GROUPS, ENTRIES)


def one_hot_quantizer(quantizer, features, temperature, noise):
    """fairseq's way: hard = one_hot - soft.detach() + soft, then its product with the code book."""
    logits = quantizer.logits(features).unflatten(-1, (GROUPS, ENTRIES))
    soft = functional.softmax((logits + noise) / temperature, dim=-1)
    hard = functional.one_hot(soft.argmax(dim=-1), ENTRIES) - soft.detach() + soft
    return (hard[..., None] * quantizer.codebook).sum(dim=-2).flatten(-2)


def test_forward_and_gradients_are_those_of_the_one_hot_product(quantizer):
    features, noise = features_and_noise()
    weights = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(2))
    parameters = [features, *quantizer.parameters()]
    found = quantizer(features, 0.7, noise).vectors
    expected = one_hot_quantizer(quantizer, features, 0.7, noise)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    gradients = torch.autograd.grad((found * weights).sum(), parameters)
    wanted = torch.autograd.grad((expected * weights).sum(), parameters)
    for one, other in zip(gradients, wanted, strict=True):
        assert float(other.abs().max()) > 1e-3
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_vectors_are_exactly_rows_of_the_code_book(quantizer):
    features, noise = features_and_noise()
    quantized = quantizer(features, 0.7, noise)
    parts = quantized.vectors.unflatten(-1, (GROUPS, -1))
    for group in range(GROUPS):
        assert torch.equal(parts[..., group, :], quantizer.codebook[group][quantized.codes[..., group]])


def test_without_noise_the_most_likely_entries_are_chosen_and_teach_the_code_book_only(quantizer):
    features, _ = features_and_noise()
    quantized = quantizer(features)
    logits = quantizer.logits(features).unflatten(-1, (GROUPS, ENTRIES))
    assert torch.equal(quantized.codes, logits.argmax(dim=-1))
    quantized.vectors.sum().backward()
    assert quantizer.codebook.grad is not None
    assert quantizer.logits.weight.grad is None


def test_sampled_entries_follow_the_softmax(quantizer):
    """Gumbel's theorem: at any temperature the chosen entry has the probability that the softmax gives it."""
    features = torch.zeros(200, 100, 10)
    with torch.no_grad():
        quantizer.logits.bias.copy_(torch.linspace(-1, 1, GROUPS * ENTRIES))
    codes = quantizer(features, 2.0, RowRandom(torch.arange(200)).gumbel(100, GROUPS, ENTRIES)).codes
    expected = quantizer.logits.bias.view(GROUPS, ENTRIES).softmax(dim=-1)
    for group in range(GROUPS):
        found = codes[..., group].flatten().bincount(minlength=ENTRIES) / 20_000
        torch.testing.assert_close(found, expected[group], atol=0.016, rtol=0)  # five standard deviations


def test_perplexity_counts_the_entries_in_use(quantizer):
    with torch.no_grad():
        quantizer.logits.weight.zero_()
        quantizer.logits.bias.zero_()
        uniform = quantizer(torch.randn(2, 4, 10))
    assert float(uniform.prob_perplexity) == pytest.approx(GROUPS * ENTRIES, rel=1e-4)
    assert float(uniform.code_perplexity) == pytest.approx(GROUPS, rel=1e-4)  # all frames agree on the first


def test_perplexity_has_a_gradient_that_spreads_the_entries(quantizer):
    features, _ = features_and_noise()
    before = quantizer(features).prob_perplexity
    (gradient,) = torch.autograd.grad(before, quantizer.logits.bias)
    with torch.no_grad():
        quantizer.logits.bias.add_(0.1 * gradient / gradient.norm())
    assert quantizer(features).prob_perplexity > before


def test_autocast_does_not_round_the_choice(quantizer):
    features, noise = features_and_noise()
    with torch.autocast("cpu", torch.bfloat16):
        half = quantizer(features, 0.7, noise)
    single = quantizer(features, 0.7, noise)
    assert torch.equal(half.vectors, single.vectors)
    assert torch.equal(half.prob_perplexity, single.prob_perplexity)


def test_temperature_falls_to_its_floor():
    schedule = (2.0, 0.5, 0.999995)
    assert temperature_at(0, schedule) == 2.0
    assert temperature_at(100_000, schedule) == pytest.approx(1.2131, abs=1e-4)
    assert temperature_at(277_260, schedule) == 0.5

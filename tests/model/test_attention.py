"""Plain attention as it is trained in bfloat16 on a CPU against the definition in float64.

Tolerance 2e-2 of the largest number: bfloat16 has 8 bits.
"""

import math

import pytest
import torch

from sewkit.model.attention import WRITTEN_OUT_KEYS, SelfAttention


def expected_context(query, key, value, mask):
    scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(3) @ value


def key_mask(kind):
    held = torch.arange(50) < torch.tensor([[50], [31]])
    if kind == "bool":
        return held[:, None, None]
    return torch.where(held, 0.7, -1e4)[:, None, None] if kind == "bias" else None


@pytest.mark.parametrize("kind", ["none", "bool", "bias"])
@pytest.mark.parametrize("num_queries", [50, 25])
def test_bfloat16_training_matches_the_definition(kind, num_queries):
    torch.manual_seed(0)
    attention, mask = SelfAttention(48, 3, dropout=0.0).train(), key_mask(kind)
    parts = [torch.randn(2, 3, size, 16) for size in (num_queries, 50, 50)]
    found_parts = [part.bfloat16().requires_grad_() for part in parts]
    expected_parts = [part.detach().double().requires_grad_() for part in found_parts]
    weights = torch.randn(2, 3, num_queries, 16)

    with torch.autocast("cpu", torch.bfloat16):
        found = attention.attend(*found_parts, mask, None)
    (found.float() * weights).sum().backward()
    expected = expected_context(*expected_parts, mask if kind != "bias" else mask.double())
    (expected * weights).sum().backward()

    assert found.dtype == torch.bfloat16
    pairs = [
        (found, expected),
        *((one.grad, other.grad) for one, other in zip(found_parts, expected_parts, strict=True)),
    ]
    for one, other in pairs:
        assert (one.double() - other).abs().max() <= 2e-2 * other.abs().max()


def test_dropout_drops_attention_in_bfloat16():
    torch.manual_seed(0)
    attention = SelfAttention(48, 3, dropout=0.5).train()
    parts = [torch.randn(1, 3, 20, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    first, second = (attention.attend(*parts, None, None) for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(attention.eval().attend(*parts, None, None), attention.attend(*parts, None, None))


def test_long_clips_keep_no_scores():
    """Which training would have to hold: the number of frames squared."""
    attention, saved = SelfAttention(16, 1, dropout=0.0).train(), []
    frames = WRITTEN_OUT_KEYS + 1
    parts = [torch.randn(1, 1, frames, 16, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()), lambda _: None):
        attention.attend(*parts, None, None)
    assert max(saved) < frames**2

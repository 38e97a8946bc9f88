"""The encoder in training: whose numbers LayerDrop draws, and checkpoints of activations."""

import copy

import pytest
import torch

from sewkit.config import Dropout
from sewkit.model import build_model
from sewkit.model.encoder import Encoder
from sewkit.testing import TOYS

DROPOUT = Dropout(hidden=0.2, attention=0.2, activation=0.1, input=0.1, layerdrop=0.4)


def encoder(name: str = "sew", **dropout: float) -> Encoder:
    torch.manual_seed(0)
    config = TOYS[name].replace(num_layers=6, dropout=DROPOUT.model_copy(update=dropout))
    return build_model(config).encoder.train()


def dropped(made: Encoder) -> list[bool]:
    """Which layers a forward pass skipped: their output is their input."""
    states = made(torch.randn(2, 9, 32), torch.tensor([9, 7]))
    return [one is other for one, other in zip(states[1:], states[:-1], strict=True)]


def test_the_same_seed_drops_the_same_layers_whatever_else_is_drawn():
    made = encoder()
    found = []
    for _ in range(2):
        made.layer_random.manual_seed(5)
        found.append([dropped(made) for _ in range(4)])  # dropout draws from torch's generator all the while
    assert found[0] == found[1]
    made.layer_random.manual_seed(6)
    assert [dropped(made) for _ in range(4)] != found[0]


def test_layers_are_dropped_as_often_as_asked():
    made = encoder()
    made.layer_random.manual_seed(0)
    count = sum(sum(dropped(made)) for _ in range(200))
    assert count / 1_200 == pytest.approx(0.4, abs=0.07)  # five standard deviations


def test_a_generator_that_nobody_seeded_leaves_the_draw_to_torch():
    made = encoder()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append([dropped(made) for _ in range(4)])
    assert found[0] == found[1] != found[2]


def test_nothing_is_dropped_in_evaluation_and_the_encoder_can_be_copied():
    made = copy.deepcopy(encoder()).eval()
    assert not any(any(dropped(made)) for _ in range(5))


@pytest.mark.parametrize("name", ["w2v2-prenorm", "sew", "sew-d"])
def test_checkpoints_of_activations_change_no_gradient(name):
    """With dropout and LayerDrop on: the second forward pass must drop what the first did."""
    gradients = []
    for checkpointed in (False, True):
        made = encoder(name)
        made.checkpoint_layers = checkpointed
        made.layer_random.manual_seed(3)
        torch.manual_seed(4)
        x = torch.randn(2, 9, 32).requires_grad_()
        made(x, torch.tensor([9, 7]))[-1].square().sum().backward()
        found = {key: parameter.grad for key, parameter in made.named_parameters()}
        gradients.append({**found, "x": x.grad})
    for key, expected in gradients[0].items():
        assert (gradients[1][key] is None) == (expected is None)
        if expected is not None:
            assert torch.equal(gradients[1][key], expected), key


def test_checkpoints_keep_less_for_the_backward_pass():
    kept = []
    for checkpointed in (False, True):
        made = encoder(layerdrop=0.0)
        made.checkpoint_layers = checkpointed
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x.numel()) or x, lambda x: x):
            made(torch.randn(2, 9, 32).requires_grad_(), torch.tensor([9, 7]))
        kept.append(sum(saved))
    assert kept[1] < kept[0] / 4

"""Adam against fairseq's; scaling and clipping; the moving average."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from sewkit.train.optimizer import build_optimizer, move_average, scale_and_clip

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "data" / "schedules.json").read_text())["adam"]


def trajectory(eps_of_update):
    """(updates, 4) parameters after each update on the golden gradients."""
    parameter = nn.Parameter(torch.tensor(GOLDEN["start"]))
    optimizer = build_optimizer([parameter], tuple(GOLDEN["betas"]), 1e-8, GOLDEN["weight_decay"], decay_all=True)
    after = []
    for number, gradient in enumerate(GOLDEN["gradients"], start=1):
        for group in optimizer.param_groups:
            group["lr"], group["eps"] = GOLDEN["lr"], eps_of_update(number)
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        after.append(parameter.detach().clone())
    return torch.stack(after)


EXPECTED = torch.tensor(GOLDEN["parameters_after_each_step"])


def test_adam_equals_fairseqs_where_gradients_are_far_above_eps():
    ours = trajectory(lambda update: GOLDEN["eps"])
    assert torch.allclose(ours[:, :3], EXPECTED[:, :3], atol=2e-6)
    # the last parameter's gradients are 1e-4 to 1e-6, near eps: steps of 1e-2 differ by less than a tenth
    assert 1e-5 < (ours[:, 3] - EXPECTED[:, 3]).abs().max() < 1e-3


def test_the_difference_to_fairseqs_adam_is_where_eps_is_added():
    beta2 = GOLDEN["betas"][1]
    ours = trajectory(lambda update: GOLDEN["eps"] / math.sqrt(1 - beta2**update))
    assert torch.allclose(ours, EXPECTED, atol=1e-6)


def test_weight_decay_is_on_matrices_only_unless_wanted():
    parameters = [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))]
    decays = [
        [
            group["weight_decay"]
            for group in build_optimizer(parameters, weight_decay=0.1, decay_all=everything).param_groups
        ]
        for everything in (False, True)
    ]
    assert decays == [[0.1, 0.0], [0.1]]


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_gradients_of_sums_are_divided_by_the_count_and_clipped(clip_norm, expected):
    parameter, frozen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([30.0, 40.0])
    norm = scale_and_clip([parameter, frozen], torch.tensor(10.0), clip_norm)
    assert float(norm) == pytest.approx(5.0)
    assert torch.allclose(parameter.grad, torch.tensor(expected))  # float32 rounding
    assert frozen.grad is None


def test_a_gradient_that_is_not_finite_shows_in_the_norm():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, math.nan])
    assert not math.isfinite(scale_and_clip([parameter], torch.tensor(1.0), 1.0))


def test_the_average_follows_faster_at_first_and_copies_counters():
    average = {}
    for number in (1, 2, 3):
        move_average(average, {"w": torch.tensor(float(number)), "count": torch.tensor(number)}, 0.9, number)
    # decays 3/12, then 4/13
    expected = (1 * 3 / 12 + 2 * 9 / 12) * 4 / 13 + 3 * 9 / 13
    assert float(average["w"]) == pytest.approx(expected)
    assert int(average["count"]) == 3

"""SEW's predictor head: what it computes, and that several processes share one batch norm."""

from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from sewkit.model.heads import BatchNorm, MLPHead

IN, HIDDEN, OUT = 6, 16, 5
SIZES = (5, 3)
"""Rows of each process."""


def head() -> MLPHead:
    torch.manual_seed(0)
    made = MLPHead(IN, HIDDEN, OUT)
    nn.init.normal_(made.norm.weight)
    nn.init.normal_(made.norm.bias)
    return made.train()


def rows() -> torch.Tensor:
    return 3 + 2 * torch.randn(sum(SIZES), IN, generator=torch.Generator().manual_seed(1))


def loss_of(outputs: torch.Tensor, first: int) -> torch.Tensor:
    """A sum over rows that treats every row and channel differently."""
    weights = torch.randn(sum(SIZES), OUT, generator=torch.Generator().manual_seed(2))
    return (outputs.square() * weights[first : first + len(outputs)]).sum()


def test_it_is_the_originals_convolutions_and_batch_norm():
    original = nn.Sequential(
        nn.Conv1d(IN, HIDDEN, 1, bias=False), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Conv1d(HIDDEN, OUT, 1)
    )
    ours, x = head(), rows()
    original[0].weight.data = ours.up.weight.data[:, :, None]
    original[1].load_state_dict(ours.norm.state_dict())
    original[3].weight.data, original[3].bias.data = ours.down.weight.data[:, :, None], ours.down.bias.data
    for mode in (True, False):
        ours.train(mode)
        original.train(mode)
        expected = original(x.T[None])[0].T
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(x.view(2, -1, IN)), original(x.T[None])[0].T.view(2, -1, OUT))
    torch.testing.assert_close(ours.norm.running_var, original[1].running_var)


def test_its_weights_start_as_the_originals():
    made = MLPHead(300, 400, 200)
    assert float(made.up.weight.detach().std()) == pytest.approx((2 / 700) ** 0.5, rel=0.02)
    assert float(made.down.weight.detach().std()) == pytest.approx((2 / 600) ** 0.5, rel=0.02)
    assert not made.down.bias.any()
    assert made.up.bias is None


def test_batch_norm_is_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert BatchNorm(IN)(rows().bfloat16()).dtype == torch.float32


def run_a_share(rank: int, folder: Path) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    made, first = head(), sum(SIZES[:rank])
    x = rows()[first : first + SIZES[rank]].requires_grad_()
    outputs = made(x)
    loss_of(outputs, first).backward()
    result = {name: parameter.grad for name, parameter in made.named_parameters()}
    made.eval()
    if rank == 0:
        made(x)  # alone, as in validation: must not wait for the other
    torch.save([outputs.detach(), x.grad, result, made.state_dict()], folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_are_one_batch_norm_over_the_joined_rows(tmp_path):
    """Outputs, gradients and buffers within 1e-5 of one process that has the rows of both."""
    multiprocessing.spawn(run_a_share, (tmp_path,), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    made, x = head(), rows().requires_grad_()
    outputs = made(x)
    loss_of(outputs, 0).backward()

    def close(found: torch.Tensor, expected: torch.Tensor) -> None:
        torch.testing.assert_close(found, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=1e-5)

    close(torch.cat([share[0] for share in shares]), outputs.detach())
    close(torch.cat([share[1] for share in shares]), x.grad)
    for name, parameter in made.named_parameters():
        close(shares[0][2][name] + shares[1][2][name], parameter.grad)
    for name, buffer in made.named_buffers():
        for share in shares:
            close(share[3][name], buffer)

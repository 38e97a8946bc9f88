"""The GPU kernel of disentangled attention: where no GPU is, run by Triton's interpreter, and compiled for real ones.

Against the modules that define it; tolerance 1e-5 in float32, 1e-4 for a whole model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sewkit.compute import operating_points
from sewkit.model.disentangled import DisentangledAttention, RelativePositions
from sewkit.runtime import disentangled, folding
from sewkit.runtime.disentangled import KernelAttention, PositionRows, kernel_works
from sewkit.runtime.folding import prepare
from sewkit.runtime.pytorch import TorchRuntime
from sewkit.testing import STOCHASTIC_TOYS, TOYS, padded_batch, synthetic_speech, toy_model

pytest.importorskip("triton", reason="on Linux only")
COMPILE = Path(__file__).parents[2] / "recipes" / "speed" / "compile_kernel.py"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def _layer(head_size: int, unit: int | None = None) -> tuple[DisentangledAttention, RelativePositions]:
    torch.manual_seed(0)
    attention = DisentangledAttention(2 * head_size, 2, dropout=0.0, position_dropout=0.0)
    positions = RelativePositions(2 * head_size, num_buckets=8, max_positions=16, eps=1e-7, unit=unit)
    return attention.eval().to(DEVICE), positions.eval().to(DEVICE)


@pytest.mark.parametrize("unit", [None, 2])
@pytest.mark.parametrize("pools", [(1, 1), (2, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize("frames", [1, 2, 11, 70])
def test_it_is_the_formula_of_sew_d(frames: int, pools: tuple[int, int], unit: int | None) -> None:
    """At 70 frames there are three tiles, and most pairs are further apart than the table of 16 positions reaches."""
    attention, positions = _layer(8, unit)
    kernel, rows = KernelAttention(attention, positions), PositionRows(positions)
    query = torch.randn(2, 2, -(-frames // pools[0]), 8, device=DEVICE)
    key, value = torch.randn(2, 2, 2, -(-frames // pools[1]), 8, device=DEVICE)
    for squeeze in (1, 3):
        expected = attention.attend(query, key, value, None, positions(frames, *pools, squeeze))
        found = kernel.attend(query, key, value, None, rows(frames, *pools, squeeze))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_size", [16, 24, 64])
def test_heads_of_any_size_and_rows_of_any_length(head_size: int) -> None:
    attention, positions = _layer(head_size)
    x = torch.randn(3, 40, 2 * head_size, device=DEVICE)
    held = torch.arange(40, device=DEVICE) < torch.tensor([[40], [33], [1]], device=DEVICE)
    arguments = x, held[:, None, None]
    expected = attention(*arguments, positions(40))
    found = KernelAttention(attention, positions)(*arguments, PositionRows(positions)(40))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_float16_stays_near() -> None:
    """Outputs are about 0.3. The interpreter cannot multiply bfloat16."""
    attention, positions = _layer(16)
    x = torch.randn(2, 40, 32, device=DEVICE)
    expected = attention(x, None, positions(40))
    attention, positions = attention.half(), positions.half()
    found = KernelAttention(attention, positions)(x.half(), None, PositionRows(positions)(40))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["sew-d", "stochastic-sew-d"])
def test_a_model_with_the_kernel_gives_what_the_model_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folding, "kernel_works", lambda device, dtype: True)
    model = toy_model(name).to(DEVICE)
    prepared = prepare(model)
    assert isinstance(prepared.encoder.layers[0].attention, KernelAttention)
    batch = [part.to(DEVICE) for part in padded_batch([synthetic_speech(n, n) for n in (20_000, 9_871, 1_040, 0)])]
    for point in operating_points(model.config)[::5]:
        expected, lengths = model(*batch, point)
        found, _ = prepared(*batch, point)
        assert found.isfinite().all()
        for one, other, length in zip(found, expected, lengths.tolist(), strict=True):
            torch.testing.assert_close(one[:length], other[:length], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_it_compiles_for_gpus_spills_nothing_and_uses_their_tensor_cores_in_half_precision(capability: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    options = ("--capability", str(capability), "--dtype", "float32", "float16", "bfloat16")
    said = subprocess.run(
        [sys.executable, COMPILE, *options], env=environment, check=True, capture_output=True, text=True
    )
    for line in said.stdout.splitlines():
        found = json.loads(line)
        assert found["spilled_bytes"] == 0
        assert found["tensor_cores"] == (found["dtype"] != "float32")
    assert len(said.stdout.splitlines()) == 3


def test_a_kernel_that_does_not_work_is_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("PTX was compiled with an unsupported toolchain\nand more")

    monkeypatch.setattr(disentangled, "_both_ways", fail)
    kernel_works.cache_clear()
    with pytest.warns(UserWarning, match=r"without its kernel.*unsupported toolchain$"):
        assert not kernel_works(torch.device("cuda"), torch.bfloat16)
    kernel_works.cache_clear()


def test_the_trial_of_the_kernel_is_passed_by_a_right_one_only(monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = disentangled._both_ways(DEVICE, torch.float32), (torch.zeros(3), torch.full((3,), 0.01))
    assert right[0].abs().mean() > 0.05
    kernel_works.cache_clear()
    monkeypatch.setattr(disentangled, "_both_ways", lambda *_: right)
    assert kernel_works(torch.device("cuda"), torch.float32)
    kernel_works.cache_clear()
    monkeypatch.setattr(disentangled, "_both_ways", lambda *_: wrong)
    with pytest.warns(UserWarning, match="its results differ"):
        assert not kernel_works(torch.device("cuda"), torch.float32)
    kernel_works.cache_clear()


def test_on_a_processor_there_is_no_kernel() -> None:
    assert not kernel_works(torch.device("cpu"), torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_on_a_gpu_it_passes_its_trial(dtype: torch.dtype) -> None:
    kernel_works.cache_clear()
    assert kernel_works(torch.device("cuda"), dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", [*TOYS, *STOCHASTIC_TOYS])
def test_a_gpu_gives_what_the_processor_gives(name: str) -> None:
    """To 1e-3."""
    clips = [synthetic_speech(size, size) for size in (20_000, 9_871, 1_040)]
    on_gpu, on_cpu = (TorchRuntime(toy_model(name), torch.device(kind)).logits(clips) for kind in ("cuda", "cpu"))
    for one, other in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=0)

"""One layer of SEW-D's attention, with its projections: our forms beside transformers', on the same random weights.

    python recipes/speed/measure_attention.py --size sew-d-tiny --seconds 10 --seconds 60 --output attention.json
    python recipes/speed/measure_attention.py --size sew-d-mid --device cuda --dtype bfloat16 --batch 32

"definition" is the module that is trained, "blocks" what runs on a CPU, "kernel" what runs on a GPU where it works.
Milliseconds are medians of interleaved runs; memory is what a call needs beside what is there before, on a GPU only;
"difference" is the largest from the definition in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sewkit.bench.figures import write_json
from sewkit.bench.memory import peak_mib
from sewkit.bench.pretrain import synchronized
from sewkit.bench.timing import environment, interleaved, ratio, summary
from sewkit.config import PUBLISHED, ModelConfig
from sewkit.model.disentangled import DisentangledAttention, RelativePositions
from sewkit.runtime.disentangled import (
    BlockwiseAttention,
    KernelAttention,
    PositionBlocks,
    PositionRows,
    kernel_works,
)

SQUEEZED_FRAMES = 25
"""Of a second."""
Call = Callable[[], Tensor]


def main() -> None:
    """See the head of this file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--size", default="sew-d-mid", choices=[name for name in PUBLISHED if "sew-d" in name])
    options.add_argument(
        "--seconds", type=float, action="append", help="of a clip; may be repeated; default: 10, 30, 60"
    )
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    options.add_argument("--runs", type=int, default=20)
    options.add_argument("--threads", type=int)
    options.add_argument("--output", type=Path)
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    rows = []
    for seconds in chosen.seconds or (10, 30, 60):
        for row in measure(PUBLISHED[chosen.size], seconds, chosen):
            rows.append(row)
            print(described(row))
    if chosen.output:
        write_json(chosen.output, {"environment": environment(), "size": chosen.size, "rows": rows})


def described(row: dict[str, Any]) -> str:
    """One line."""
    memory = "" if row["mib"] is None else f"  {row['mib']:,.0f} MiB"
    speed = f"{row['median']:9.3f} ms  {row['times_transformers']:6.2f} x transformers"
    return f"{row['seconds']:4g} s  {row['way']:13} {speed}  difference {row['difference']:.1e}{memory}"


@torch.inference_mode()
def measure(config: ModelConfig, seconds: float, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each way to attend."""
    device, dtype, frames = torch.device(chosen.device), getattr(torch, chosen.dtype), round(seconds * SQUEEZED_FRAMES)
    torch.manual_seed(0)
    attention = DisentangledAttention(config.hidden_size, config.num_heads, dropout=0.0, position_dropout=0.0)
    positions = RelativePositions(
        config.hidden_size, config.position_buckets, config.max_positions, config.layer_norm_eps
    )
    x = torch.randn(chosen.batch, frames, config.hidden_size)
    exact = attention.eval()(x, None, positions.eval()(frames))
    attention, positions, x = attention.to(device, dtype), positions.to(device, dtype), x.to(device, dtype)
    ways = _ways(attention, positions, x) | {"transformers": _transformers(config, attention, positions, x)}
    waits = {way: synchronized(call, device) for way, call in ways.items()}
    times = interleaved(waits, chosen.runs)
    return [
        {
            "way": way,
            "seconds": seconds,
            "batch": chosen.batch,
            "dtype": chosen.dtype,
            **{key: 1000 * value for key, value in summary(times[way]).items()},
            "times_transformers": ratio(times["transformers"], times[way]),
            "difference": float((call().float().cpu() - exact).abs().max()),
            "mib": _needed(call, device),
        }
        for way, call in ways.items()
    ]


def _ways(attention: DisentangledAttention, positions: RelativePositions, x: Tensor) -> dict[str, Call]:
    frames = x.shape[1]
    ways: dict[str, Call] = {"definition": partial(attention, x, None, positions(frames))}
    forms: dict[str, tuple[type, type]] = {"blocks": (BlockwiseAttention, PositionBlocks)}
    if kernel_works(x.device, x.dtype):
        forms["kernel"] = (KernelAttention, PositionRows)
    for name, (form, rows) in forms.items():
        ways[name] = partial(form(attention, positions), x, None, rows(positions)(frames))
    return ways


def _transformers(
    config: ModelConfig, attention: DisentangledAttention, positions: RelativePositions, x: Tensor
) -> Call:
    """Theirs with our weights; the table and the pairs' rows are handed in, as their encoder does for all layers."""
    from transformers import SEWDConfig
    from transformers.models.sew_d.modeling_sew_d import DisentangledSelfAttention, build_relative_position

    theirs = DisentangledSelfAttention(
        SEWDConfig(
            hidden_size=config.hidden_size,
            num_attention_heads=config.num_heads,
            position_buckets=config.position_buckets,
            max_position_embeddings=config.max_positions,
        )
    )
    theirs = theirs.eval().to(x.device, x.dtype)
    for name in ("query", "key", "value"):
        getattr(theirs, f"{name}_proj").load_state_dict(getattr(attention, name).state_dict())
    frames = x.shape[1]
    apart = build_relative_position(frames, frames, config.position_buckets, config.max_positions, device=x.device)
    table, mask = (
        positions.norm(positions.embedding),
        torch.ones(len(x), 1, 1, frames, dtype=torch.bool, device=x.device),
    )

    def call() -> Tensor:
        return attention.output(theirs(x, mask, relative_pos=apart, rel_embeddings=table)[0])

    return call


def _needed(call: Call, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device) / 2**20
    peak = peak_mib(call, device)
    return None if peak is None else peak - before


if __name__ == "__main__":
    main()

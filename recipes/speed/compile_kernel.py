"""What Triton makes of the kernel of SEW-D's attention for GPUs, without one: registers a thread, what is spilled.

    python recipes/speed/compile_kernel.py --capability 80 90 120 --dtype bfloat16 float32

A line of JSON for each. Heads of 64 channels; arguments are aligned as those of published sizes are.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sewkit.runtime.kernels import CHANGING, TILES, disentangled_kernel

SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
NUMBERS = ("query", "key", "value", "by_query", "by_key", "context")
UNALIGNED = (*CHANGING, "scale", "query_step", "key_step")
ASSEMBLERS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def main() -> None:
    """See the head of this file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--capability", type=int, nargs="+", default=[80, 90])
    options.add_argument("--dtype", nargs="+", choices=SHORT, default=["bfloat16"])
    options.add_argument("--tile", type=int, nargs=2, help="queries and keys, others than the kernel's own")
    chosen = options.parse_args()
    for capability in chosen.capability:
        for dtype in chosen.dtype:
            print(json.dumps(compiled(capability, dtype, chosen.tile or TILES[getattr(torch, dtype)])))


def compiled(capability: int, dtype: str, tile: tuple[int, int]) -> dict[str, Any]:
    """Compiled and assembled for one kind of GPU."""
    names = disentangled_kernel.arg_names
    constants: dict[str, Any] = {"num_heads": 8, "channels": 64, "channels_held": 64, "precision": "ieee"}
    constants |= {"tile_queries": tile[0], "tile_keys": tile[1]}
    kinds = {**dict.fromkeys(NUMBERS, f"*{SHORT[dtype]}"), "rows": "*i32", "key_bias": "*fp32", "scale": "fp32"}
    kinds |= dict.fromkeys(constants, "constexpr")
    aligned = [names.index(name) for name in names if name not in (*constants, *UNALIGNED)]
    source = ASTSource(
        disentangled_kernel,
        {name: kinds.get(name, "i32") for name in names},
        constexprs=constants,
        attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    said = assembled(made.asm["ptx"])
    registers, spilled = re.search(r"Used (\d+) registers", said), re.search(r"(\d+) bytes spill stores", said)
    assert registers, said
    assert spilled, said
    return {
        "capability": capability,
        "dtype": dtype,
        "tile": list(tile),
        "registers": int(registers[1]),
        "spilled_bytes": int(spilled[1]),
        "shared_bytes": made.metadata.shared,
        "tensor_cores": re.search(r"\bw?g?mma\b", made.asm["ptx"]) is not None,
    }


def assembled(ptx: str) -> str:
    """What the assembler that comes with Triton says of it, the one for newer GPUs where there is one."""
    target = re.search(r"\.target (\w+)", ptx)
    assert target, ptx[:200]
    newer = ASSEMBLERS / "ptxas-blackwell"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx)
        command = [newer if newer.exists() else ASSEMBLERS / "ptxas", "-v", "-arch", target[1], path]
        return subprocess.run([*command, "-o", f"{path}.cubin"], check=True, capture_output=True, text=True).stderr


if __name__ == "__main__":
    main()

"""A clip's time while another PyTorch program wants the cores, by how long threads wait for one another awake.

    python recipes/speed/measure_busy.py --output busy.json

Each setting in a process of its own, random weights, all cores or as many threads as asked; the other program
multiplies matrices, with so many threads. "openmp" is the count that GNU's OpenMP has by itself, "sewkit" what
importing sewkit sets.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sewkit.openmp import SETTINGS

WAITS = {"openmp": {"GOMP_SPINCOUNT": "300000"}, "sewkit": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
BUSY = "import sys, torch; torch.set_num_threads(int(sys.argv[1])); a = torch.randn(600, 600)\nwhile True: a @ a"


def main() -> None:
    """See the head of this file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=["sew-tiny", "sew-d-tiny"], help="published sizes")
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--threads", type=int, default=os.cpu_count())
    options.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="threads of the other program")
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--output", type=Path)
    options.add_argument("--worker", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.worker:
        print(median_ms(chosen.worker, chosen.seconds, chosen.threads, chosen.runs))
        return
    rows = list(measure(chosen))
    if chosen.output:
        from sewkit.bench.figures import write_json
        from sewkit.bench.timing import environment

        write_json(chosen.output, {"environment": environment(), "rows": rows})


def measure(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each model, number of busy threads and setting, printed as it comes."""
    around = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    for model in chosen.models:
        for count in chosen.busy:
            with busy(count):
                for name, settings in WAITS.items():
                    numbers = ("--seconds", str(chosen.seconds), "--threads", str(chosen.threads))
                    command = [sys.executable, __file__, "--worker", model, *numbers, "--runs", str(chosen.runs)]
                    said = subprocess.run(command, env=around | settings, check=True, capture_output=True, text=True)
                    row = {"model": model, "busy": count, "wait": name, "median_ms": float(said.stdout)}
                    print(f"{model:12} {count} busy  {name:8} {row['median_ms']:8.1f} ms", flush=True)
                    yield row


@contextmanager
def busy(threads: int) -> Iterator[None]:
    """A program that computes without end with so many threads, during the block."""
    if threads == 0:
        yield
        return
    other = subprocess.Popen([sys.executable, "-c", BUSY, str(threads)])
    time.sleep(3)  # it imports PyTorch first
    try:
        yield
    finally:
        other.kill()
        other.wait()


def median_ms(model: str, seconds: float, threads: int, runs: int) -> float:
    """Of a clip's calls in this process, after two to warm up."""
    import sewkit  # isort: skip  # before PyTorch
    import numpy as np
    import torch

    from sewkit.model import build_model
    from sewkit.runtime.pytorch import TorchRuntime

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = sewkit.PUBLISHED[model].replace(vocab_size=32)
    runtime = TorchRuntime(build_model(config).eval(), torch.device("cpu"))
    clip = np.random.default_rng(0).standard_normal(int(16_000 * seconds)).astype(np.float32)
    times = []
    for _ in range(2 + runs):
        begun = time.perf_counter()
        runtime.logits([clip])
        times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times[2:])


if __name__ == "__main__":
    main()

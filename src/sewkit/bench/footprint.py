"""The peak memory of one system, in a process of its own: `python -m sewkit.bench.footprint`, see `footprint_mib`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from sewkit.bench.subject import Subject
from sewkit.bench.systems import SYSTEMS, Case
from sewkit.compute import Compute

CALLS = 3


def footprint_mib(label: str, case: Case) -> float | None:
    """Of a new process that builds the system and runs it a few times; libraries and weights are included.

    None where it fails, or the operating system does not say.
    """
    subject = case.subject
    request = {
        "label": label,
        "name": subject.name,
        "point": str(subject.point),
        "folder": str(subject.folder),
        "shape": case.waveforms.shape,
        "threads": case.threads,
    }
    command = [sys.executable, "-m", "sewkit.bench.footprint", json.dumps(request)]
    done = subprocess.run(command, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 and done.stdout.strip() else None


def _run(request: dict) -> float:
    torch.set_num_threads(request["threads"])
    point = Compute.parse(request["point"])
    waveforms = np.random.default_rng(0).standard_normal(request["shape"], dtype=np.float32)
    case = Case(Subject(request["name"], point, Path(request["folder"])), waveforms, "cpu", request["threads"])
    forward = next(system for system in SYSTEMS if system.label == request["label"]).build(case)
    for _ in range(CALLS):
        forward()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(_run(json.loads(sys.argv[1])))

"""Toy models that the original implementations ran, unpacked once a session; see README.md here."""

from __future__ import annotations

import lzma
from functools import cached_property
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"
NAMES = sorted(path.name for path in DATA.iterdir() if path.is_dir())


class GoldenCase:
    """One toy model: its original files, its waveforms, and what the original computed from them."""

    def __init__(self, name: str, folder: Path):
        self.name = name
        self.folder = folder

    def file(self, name: str) -> Path:
        """An original file, byte for byte."""
        path = self.folder / self.name / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(lzma.decompress((DATA / self.name / f"{name}.xz").read_bytes()))
        return path

    @cached_property
    def expected(self) -> dict[str, np.ndarray]:
        with np.load(DATA / self.name / "expected.npz") as arrays:
            return dict(arrays)

    @cached_property
    def pretraining(self) -> dict[str, np.ndarray]:
        """Pre-training: a forward pass in evaluation mode (`pre_...`), one with gradients in training mode."""
        with np.load(DATA / self.name / "pretraining.npz") as arrays:
            return dict(arrays)

    @property
    def waveforms(self) -> list[np.ndarray]:
        return [self.expected[f"wav{i}"] for i in range(sum(key.startswith("wav") for key in self.expected))]

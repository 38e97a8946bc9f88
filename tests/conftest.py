"""Toy models and sounds that several tests share."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import sewkit
from sewkit.checkpoint import save_model
from sewkit.testing import toy_model
from sewkit.text import Alphabet

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # heard when Triton is imported: GPU kernels run on the CPU, step by step
torch.set_num_threads(1)  # toys are too small to share out; the tests run in two processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process waits for them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved SEW of random weights: fast, and what it writes changes with every sound it hears."""
    folder = tmp_path_factory.mktemp("models") / "toy"
    save_model(folder, toy_model("sew"), Alphabet.english())
    return folder


@pytest.fixture(scope="session")
def toy(toy_folder: Path) -> sewkit.Recognizer:
    return sewkit.load(toy_folder)


@pytest.fixture
def noise() -> np.random.Generator:
    return np.random.default_rng(7)

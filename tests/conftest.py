"""Toy models and sounds that several tests share."""

from pathlib import Path

import numpy as np
import pytest
import torch

import sewkit
from sewkit.checkpoint import save_model
from sewkit.config import compact_conv_layers
from sewkit.model import build_model
from sewkit.text import Alphabet

TOY = sewkit.ModelConfig(
    family="sew",
    conv_layers=compact_conv_layers(4),
    hidden_size=32,
    num_layers=1,
    num_heads=2,
    ffn_size=32,
    pos_conv_kernel=15,
    squeeze_factor=2,
    vocab_size=32,
)


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved SEW of random weights: fast, and what it writes changes with every sound it hears."""
    torch.manual_seed(1)
    model = build_model(TOY)
    assert model.head is not None
    model.head.weight.data.mul_(30)  # type: ignore[union-attr, operator]
    folder = tmp_path_factory.mktemp("models") / "toy"
    save_model(folder, model, Alphabet.english())
    return folder


@pytest.fixture(scope="session")
def toy(toy_folder: Path) -> sewkit.Recognizer:
    return sewkit.load(toy_folder)


@pytest.fixture
def noise() -> np.random.Generator:
    return np.random.default_rng(7)

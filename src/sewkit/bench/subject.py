"""What is measured: one model at one operating point, on disk, for us and for its peers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sewkit.checkpoint import LoadedModel, load_model, save_loaded
from sewkit.checkpoint.huggingface import unknown_to_transformers
from sewkit.compute import Compute, resolve
from sewkit.config import PUBLISHED, Stochastic
from sewkit.errors import UserError
from sewkit.model import build_model
from sewkit.model.stochastic import specialise
from sewkit.text import Alphabet


class Unavailable(UserError):
    """A system that cannot run here, or not this model; says why, in a few words."""


@dataclass(frozen=True)
class Subject:
    """A model at one operating point, with room in its folder for what is made of it, such as exports."""

    name: str
    point: Compute
    folder: Path

    @property
    def model(self) -> Path:
        """What `sewkit.load` takes."""
        return self.folder / "model"

    @property
    def peer(self) -> Path:
        """What transformers loads. Raises Unavailable where it has no such model."""
        if not (self.folder / "peer").is_dir():
            raise Unavailable(f"transformers has no model that runs at {self.point}")
        return self.folder / "peer"


def prepare(name: str, request: str | None, folder: Path) -> Subject:
    """Writes a model to `folder`. A published size gets random weights, and is made stochastic if the point needs it.

    request: operating point, None for the dearest. Raises UserError where the model has no letters or no such point.
    """
    loaded = _published(name, request) if name in PUBLISHED else load_model(name)
    if loaded.alphabet is None:
        raise UserError(f"{name} does not transcribe; bench takes models with letters, or published sizes")
    point = loaded.resolve(request)
    subject = Subject(name, point, folder)
    save_loaded(subject.model, loaded)
    fixed = specialise(loaded.model, point) if loaded.model.config.is_stochastic else loaded.model
    if unknown_to_transformers(fixed.config) is None:
        save_loaded(folder / "peer", LoadedModel(fixed, loaded.alphabet))
    return subject


def _published(name: str, request: str | None) -> LoadedModel:
    """Random weights, always the same."""
    alphabet = Alphabet.english()
    config = PUBLISHED[name].replace(vocab_size=len(alphabet))
    torch.manual_seed(0)
    try:
        resolve(config, request)
    except UserError:
        config = config.replace(**Stochastic().model_dump())
    return LoadedModel(build_model(config).eval(), alphabet)

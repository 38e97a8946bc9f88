"""A small archive, and jobs over it with a toy model in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_archive import write_sounds

from sewkit.bulk.job import Job, Options
from sewkit.bulk.stages import ModelSpec
from sewkit.checkpoint import save_model
from sewkit.testing import toy_model
from sewkit.text import Alphabet

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Twelve recordings of about half a second."""
    write_sounds(tmp_path / "archive", 12)
    return tmp_path / "archive"


@pytest.fixture(scope="session")
def stochastic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "stochastic"
    save_model(folder, toy_model("stochastic-sew"), Alphabet.english())
    return folder


@pytest.fixture
def run(toy_folder: Path, tmp_path: Path) -> Run:
    """A job from `archive` to `out`, with four recordings a shard, in this process."""

    def start(**changes: Any) -> dict[str, Any]:
        options = {
            "input": str(tmp_path / "archive"),
            "output": str(tmp_path / "out"),
            "model": ModelSpec(str(toy_folder), device="cpu"),
            "workers": 0,
            "shard_recordings": 4,
            **changes,
        }
        return Job(Options(**options)).run()

    return start

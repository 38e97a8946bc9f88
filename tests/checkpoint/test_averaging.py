"""The mean of models' weights, and what cannot be averaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sewkit.checkpoint import CheckpointError, average, load_model, save_model
from sewkit.config import Dropout
from sewkit.testing import TOYS, toy_model
from sewkit.text import Alphabet

ENGLISH = Alphabet.english()


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Three models of one shape with other weights; the last was trained with another dropout."""
    folders = [tmp_path / name for name in "abc"]
    configs = [TOYS["sew"], TOYS["sew"], TOYS["sew"].replace(dropout=Dropout(hidden=0.3))]
    for seed, (folder, config) in enumerate(zip(folders, configs, strict=True)):
        save_model(folder, toy_model(config, seed=seed), ENGLISH)
    return folders


def test_the_mean_is_written_and_given_back(runs: list[Path], tmp_path: Path) -> None:
    given = average(runs, tmp_path / "mean")
    read = load_model(tmp_path / "mean")
    states = [load_model(run).model.state_dict() for run in runs]
    for name, weights in read.model.state_dict().items():
        expected = torch.stack([state[name] for state in states]).double().mean(dim=0).float()
        assert torch.equal(weights, expected), name
        assert torch.equal(weights, given.model.state_dict()[name])
    assert read.alphabet == ENGLISH


def test_no_measured_curve_of_a_model_is_taken_for_that_of_the_mean(tmp_path: Path) -> None:
    given = average(["sew-words", "sew-words"], tmp_path / "mean")
    assert load_model("sew-words").curve is not None
    assert given.curve is None
    assert load_model(tmp_path / "mean").curve is None


def test_copies_of_a_model_have_its_weights_as_their_mean_half_as_large_if_asked(
    runs: list[Path], tmp_path: Path
) -> None:
    average([runs[0]] * 3, tmp_path / "mean", half=True)
    for name, weights in load_model(tmp_path / "mean").model.state_dict().items():
        assert torch.equal(weights, load_model(runs[0]).model.state_dict()[name].half().float()), name


def test_what_is_no_run_of_the_same_start_is_refused_and_nothing_written(runs: list[Path], tmp_path: Path) -> None:
    save_model(tmp_path / "wider", toy_model(TOYS["sew"].replace(ffn_size=2 * TOYS["sew"].ffn_size)), ENGLISH)
    save_model(tmp_path / "classes", toy_model(TOYS["sew"].replace(vocab_size=None, num_labels=2)), labels=("a", "b"))
    for other, message in (("wider", "another shape than"), ("classes", "another alphabet than")):
        with pytest.raises(CheckpointError, match=message):
            average([runs[0], tmp_path / other], tmp_path / "mean")
    with pytest.raises(CheckpointError, match="1 model to average; expected two or more"):
        average(runs[:1], tmp_path / "mean")
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        average(runs, runs[0])
    assert not (tmp_path / "mean").exists()

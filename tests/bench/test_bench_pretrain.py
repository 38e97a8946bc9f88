"""`sewkit bench pretrain`: what it times is a step of training, and the stages add up."""

import pytest
import torch
from typer.testing import CliRunner

from sewkit.bench import pretrain as module
from sewkit.cli.main import app
from sewkit.testing import TOYS

CPU = torch.device("cpu")


@pytest.fixture
def toys(monkeypatch):
    """The published sizes, much smaller."""
    names = {"w2v2-base": "w2v2", "sew-tiny": "sew"}
    monkeypatch.setattr(module, "config_of", lambda name: TOYS[names[name]].replace(vocab_size=None))


def test_our_step_and_theirs_change_the_same_weights_and_start_alike(toys, tmp_path):
    pytest.importorskip("transformers")
    crops = [module.synthetic_speech(16_000, seed) for seed in range(2)]
    theirs = module.TheirStep(crops, tmp_path, CPU, "fp32")
    ours = module.OurStep(module.load_contrastive(tmp_path), crops, CPU, "fp32")
    weights = theirs.model.project_hid.weight
    assert torch.equal(ours.objective.context_head.weight, weights)
    before = weights.detach().clone()
    theirs()
    ours()
    assert not torch.equal(weights, before)
    assert not torch.equal(ours.objective.context_head.weight, before)
    assert all(parameter.grad is not None for parameter in ours.parameters)


def test_the_steps_are_compared_in_turn(toys):
    pytest.importorskip("transformers")
    figures = module.compare_steps(2, 1.0, 2, CPU, "fp32")
    assert list(figures["seconds"]) == ["transformers w2v2-base", "sewkit w2v2-base", "sewkit sew-tiny"]
    assert figures["w2v2_base_against_transformers"] > 0


def test_the_stages_of_the_training_loop_are_told_apart(toys):
    figures = module.break_down("w2v2-base", 2, 1.0, 2, CPU, "fp32")
    named = {"extractor", "encoder", "quantiser, heads, loss", "optimiser", module.DRAWS, module.OUTSIDE}
    assert figures["seconds"].keys() == named
    assert all(value > 0 for value in figures["seconds"].values())
    assert 0 < figures["outside_share"] < 1


def test_help_says_what_is_timed():
    assert "optimiser step" in CliRunner().invoke(app, ["bench", "pretrain", "--help"]).output

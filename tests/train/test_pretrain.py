"""Pre-training from a recipe, on toy recordings."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from toy_recipes import MODEL, SCHEDULE, write_rows
from typer.testing import CliRunner

from sewkit.checkpoint import CheckpointError, load_model
from sewkit.checkpoint.pretraining import read_heads
from sewkit.cli.main import app
from sewkit.config import ModelConfig, wav2vec2_conv_layers
from sewkit.data.batch import make_batch
from sewkit.errors import UserError
from sewkit.testing import synthetic_speech
from sewkit.train.finetune import run as run_finetuning
from sewkit.train.loop import train
from sewkit.train.pretrain import Validation, build_stage, mask_group, prepare, run, start_objective
from sewkit.train.recipe import FinetuneRecipe, PretrainRecipe, RecipeError, load_recipe

HEADS = {"mlp_size": 16, "entries": 8, "vq_dim": 16, "final_dim": 16, "num_negatives": 5}
NO_DROPOUT = {"hidden": 0, "attention": 0, "activation": 0, "input": 0, "final": 0, "layerdrop": 0}
W2V2 = {**MODEL, "family": "wav2vec2", "squeeze_factor": 1, "conv_layers": wav2vec2_conv_layers(16)}


@pytest.fixture
def folder(tmp_path):
    """Twelve recordings of half a second to a second and a half, not all alike."""
    rows = []
    for number in range(12):
        seconds = 0.5 + (number % 4) / 3
        waveform = synthetic_speech(int(16_000 * seconds), seed=number)
        soundfile.write(tmp_path / f"{number}.wav", waveform, 16_000)
        split = "dev" if number >= 9 else "train"
        rows.append({"audio": f"{number}.wav", "speaker": "x", "duration": seconds, "split": split})
    write_rows(tmp_path, rows)
    return tmp_path


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than the training."""
    monkeypatch.setattr("sewkit.train.summary.write_report", lambda folder: None)


def write(folder, name="pretrain.yaml", **changes):
    values = {
        "data_root": str(folder),
        "model": MODEL,
        "train": [{"manifest": "manifest.jsonl"}],
        "dev": [{"name": "held-out", "manifest": "manifest.jsonl"}],
        "updates": 6,
        "schedule": {"kind": "polynomial", "learning_rate": 1e-3},
        "batch_seconds": 4,
        "device_seconds": 2,
        "crop": {"min_seconds": 0.4, "max_seconds": 1.0},
        "contrastive": HEADS,
        "log_every": 1,
        "validate_every": 3,
        **changes,
    }
    path = folder / name
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
    return path


def recipe_of(folder, **changes):
    return load_recipe(PretrainRecipe, write(folder, **changes))


def lines_of(run_folder):
    return [json.loads(line) for line in (run_folder / "log.jsonl").read_text().splitlines()]


def states_of(run_folder):
    """Encoder and heads."""
    model = run_folder / "model"
    return {**load_model(model).model.state_dict(), **read_heads(model).tensors}


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_run_leaves_an_encoder_its_heads_and_what_was_measured(folder):
    run(recipe_of(folder), folder / "out")
    loaded = load_model(folder / "out" / "model").model
    assert loaded.config.vocab_size is None
    assert read_heads(folder / "out" / "model").settings["mlp_size"] == 16
    lines = lines_of(folder / "out")
    assert [line["update"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    measured = [line for line in lines if "accuracy_held-out" in line]
    assert [line["update"] for line in measured] == [3, 6]
    assert all(0 <= line["accuracy_held-out"] <= 1 and line["contrastive_held-out"] > 0 for line in measured)
    assert "accuracy_held-out" in (folder / "out" / "model" / "README.md").read_text()


@pytest.mark.parametrize("model", [MODEL, W2V2], ids=["sew", "w2v2"])
def test_transformers_loads_the_encoder_and_agrees(folder, model):
    transformers = pytest.importorskip("transformers")
    run(recipe_of(folder, model=model, updates=2), folder / "out")
    ours = load_model(folder / "out" / "model").model.eval()
    theirs = transformers.AutoModel.from_pretrained(folder / "out" / "model").eval()
    waveforms = torch.from_numpy(synthetic_speech(16_000))[None]
    with torch.no_grad():
        frames = ours.encode(waveforms, torch.tensor([16_000])).frames
        expected = theirs(waveforms).last_hidden_state
    torch.testing.assert_close(frames[:, : expected.shape[1]], expected, atol=1e-4, rtol=0)


START = {"updates": 4, "schedule": {"kind": "polynomial", "learning_rate": 1e-2}, "batch_seconds": 3}


def test_an_extractor_can_start_with_log_mel_energies(folder):
    run(recipe_of(folder, log_mel=START, updates=2), folder / "out")
    updates = [line for line in lines_of(folder / "out") if "loss" in line]
    assert [line["stage"] for line in updates] == ["log-mel"] * 4 + ["pretraining"] * 2
    assert updates[3]["loss"] < updates[0]["loss"]
    assert read_heads(folder / "out" / "model").settings["mlp_size"] == 16


def test_the_start_moves_the_extractor_alone(folder):
    stages, settings = prepare(recipe_of(folder, log_mel=START), folder / "out")
    before = {name: value.clone() for name, value in stages[0].objective.model.state_dict().items()}
    after = train(stages[:1], settings).model
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("features.") for name in moved)


def test_a_run_stopped_in_its_start_ends_with_the_same_encoder_and_heads(folder):
    recipe = recipe_of(folder, log_mel=START)
    run(recipe, folder / "whole")
    run(recipe, folder / "stopped", stop_after=2)
    run(recipe, folder / "stopped", resume=True)
    assert equal(states_of(folder / "whole"), states_of(folder / "stopped"))


def test_a_log_mel_start_is_for_new_models(folder):
    with pytest.raises(RecipeError, match="log_mel is a start for new models"):
        recipe_of(folder, log_mel=START, model=None, init="somewhere")


@pytest.mark.parametrize("stopped_after", [2, 5])
def test_a_stopped_run_ends_with_the_same_encoder_and_heads(folder, stopped_after):
    recipe = recipe_of(folder)
    run(recipe, folder / "whole")
    for _ in range(3):
        run(recipe, folder / "stopped", resume=True, stop_after=stopped_after)
    run(recipe, folder / "stopped", resume=True)
    assert equal(states_of(folder / "whole"), states_of(folder / "stopped"))


def test_a_pre_training_is_not_resumed_with_another_recipe(folder):
    run(recipe_of(folder), folder / "out", stop_after=2)
    with pytest.raises(UserError, match=r"begun with another recipe \(contrastive.num_negatives: \d+, now 3\); resume"):
        run(recipe_of(folder, contrastive={**HEADS, "num_negatives": 3}), folder / "out", resume=True)


def test_measuring_changes_nothing(folder):
    run(recipe_of(folder), folder / "measured")
    run(recipe_of(folder, dev=None), folder / "not")
    assert equal(states_of(folder / "measured"), states_of(folder / "not"))


def test_two_processes_have_the_losses_of_one(folder):
    """Dropout off. Sums in another order: 1e-6 relative per update at first, through Adam's division a little more.

    Batch norm and perplexity are of a micro-batch on all processes: it must hold the same rows in both runs.
    """
    changes = {"model": {**MODEL, "dropout": NO_DROPOUT}, "contrastive": {**HEADS, "dropout_features": 0}, "threads": 1}
    path = write(folder, device_seconds=8, **changes)
    run(load_recipe(PretrainRecipe, path), folder / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "sewkit", "pretrain", "-c", str(path), "-o", str(folder / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = lines_of(folder / "one"), lines_of(folder / "two")
    for name in ("loss", "contrastive", "prob_perplexity", "grad_norm", "contrastive_held-out"):
        curves = [[line[name] for line in lines if name in line] for lines in (one, two)]
        assert len(curves[0]) >= 2
        assert curves[0] == pytest.approx(curves[1], rel=2e-3 if name == "grad_norm" else 2e-4)


def test_a_warm_start_goes_on_with_encoder_and_heads(folder):
    run(recipe_of(folder), folder / "first")
    start = {"model": None, "init": str(folder / "first" / "model")}
    again = start_objective(recipe_of(folder, **start, contrastive=None))
    assert equal(states_of(folder / "first"), {**again.model.state_dict(), **again.heads().tensors})
    assert again.settings.entries == 8
    changed = start_objective(recipe_of(folder, **start, contrastive={"num_negatives": 3}))
    assert (changed.settings.num_negatives, changed.settings.entries) == (3, 8)
    new = start_objective(recipe_of(folder, **start, new_heads=True))
    assert equal(dict(again.model.state_dict()), dict(new.model.state_dict()))
    assert not torch.equal(again.quantizer.codebook, new.quantizer.codebook)
    with pytest.raises(CheckpointError, match="codebook"):
        start_objective(recipe_of(folder, **start, contrastive={"entries": 9}))


def test_fine_tuning_starts_from_the_encoder(folder):
    run(recipe_of(folder, updates=2), folder / "out")
    start = load_model(folder / "out" / "model").model.state_dict()
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    write_rows(folder, [{**row, "text": "YES"} for row in rows])
    stage = {"name": "ctc", "objective": "ctc", "schedule": SCHEDULE, "utterances": 2, "batch_seconds": 4.0}
    changes = {"stages": [{**stage, "train_extractor": False}], "model": None, "init": str(folder / "out" / "model")}
    pretraining = dict.fromkeys(("updates", "schedule", "batch_seconds", "crop", "contrastive"))
    path = write(folder, "finetune.yaml", **pretraining, **changes)
    run_finetuning(load_recipe(FinetuneRecipe, path), folder / "tuned")
    tuned = load_model(folder / "tuned" / "model").model.state_dict()
    assert all(torch.equal(value, tuned[name]) for name, value in start.items() if name.startswith("features."))
    assert tuned["head.weight"].shape[0] == 32


def test_the_average_is_what_is_saved(folder):
    state = run(recipe_of(folder, average_decay=0.9), folder / "out")
    saved = load_model(folder / "out" / "model").model.state_dict()
    assert equal(dict(saved), state.average)
    assert equal(read_heads(folder / "out" / "model").tensors, state.average_heads)
    assert not torch.equal(state.average_heads["context_head.up.weight"], state.heads["context_head.up.weight"])


def test_held_out_crops_are_the_same_every_time(folder):
    recipe = recipe_of(folder)
    objective = start_objective(recipe).eval()
    measure = Validation(recipe, recipe.dev[0], objective, torch.device("cpu"))
    with torch.no_grad():
        assert measure() == measure()


def test_rows_of_a_group_have_as_many_masked_frames_on_every_process():
    config = ModelConfig(**MODEL)
    seeds = np.arange(7)

    def masks(places):
        waveforms = [np.zeros(16_000, dtype=np.float32)] * len(places)
        batch = make_batch(waveforms, [""] * len(places), None, seeds=seeds[places])
        batch = replace(batch, group_seeds=torch.from_numpy(seeds), group_rows=torch.from_numpy(places))
        return mask_group(batch, config.masking, config).time_mask

    whole = masks(np.arange(7))
    assert whole.sum(dim=1).unique().numel() == 1
    assert int(whole[0].sum()) > 1
    for rank in range(2):
        assert torch.equal(masks(np.arange(rank, 7, 2)), whole[rank::2])


def test_the_alarm_knows_how_many_code_words_there_are(folder):
    recipe = recipe_of(folder)
    assert build_stage(recipe, start_objective(recipe), torch.device("cpu")).num_entries == 2 * 8


def test_a_dry_run_tells_the_facts_and_writes_nothing(folder):
    path = write(folder)
    result = CliRunner().invoke(app, ["pretrain", "-c", str(path), "-o", str(folder / "out"), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "sound in an update" in result.output
    assert not (folder / "out").exists()


def test_the_verb_says_where_the_encoder_is(folder):
    result = CliRunner().invoke(app, ["pretrain", "-c", str(write(folder, dev=None)), "-o", str(folder / "out")])
    assert result.stderr.splitlines()[-1] == f"sewkit: the model is in {folder / 'out' / 'model'}"

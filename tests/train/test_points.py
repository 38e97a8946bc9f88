"""Stochastic training: points drawn for micro-batches, one point fixed, and fixed models made stochastic."""

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

from sewkit.checkpoint import load_model, save_model
from sewkit.compute import Compute, draw_compute, operating_points
from sewkit.config import ModelConfig
from sewkit.data.batch import make_batch
from sewkit.model import build_model
from sewkit.objectives.contrastive import Contrastive, ContrastiveSettings
from sewkit.objectives.ctc import CTC
from sewkit.testing import STOCHASTIC_TOYS, TOYS, synthetic_speech, toy_model
from sewkit.text import Alphabet
from sewkit.train import finetune, pretrain
from sewkit.train.points import DrawnPoints
from sewkit.train.recipe import FinetuneRecipe, PretrainRecipe, RecipeError, load_recipe

HEADS = {"mlp_size": 16, "entries": 8, "vq_dim": 16, "final_dim": 16, "num_negatives": 5}
NO_DROPOUT = {"hidden": 0, "attention": 0, "activation": 0, "input": 0, "final": 0, "layerdrop": 0}
FIXED = {**MODEL, "dropout": NO_DROPOUT}
STOCHASTIC = {
    **{key: value for key, value in FIXED.items() if key != "squeeze_factor"},
    "squeeze_factors": [1, 2, 3, 4],
    "query_pools": [1, 2],
    "kv_pools": [1, 2],
}


@pytest.fixture
def folder(tmp_path):
    """Eight recordings of a half to one and a half seconds."""
    rows = []
    for number in range(8):
        seconds = 0.5 + (number % 4) / 3
        soundfile.write(tmp_path / f"{number}.wav", synthetic_speech(int(16_000 * seconds), seed=number), 16_000)
        split = "dev" if number >= 6 else "train"
        row = {"audio": f"{number}.wav", "text": "YES", "speaker": "x", "duration": seconds, "split": split}
        rows.append(row)
    write_rows(tmp_path, rows)
    return tmp_path


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than the training."""
    monkeypatch.setattr("sewkit.train.summary.write_report", lambda folder: None)


def write(folder, **changes):
    values = {
        "data_root": str(folder),
        "train": [{"manifest": "manifest.jsonl"}],
        "log_every": 1,
        "validate_every": 100,
        "device_seconds": 2,
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def pretraining(folder, **changes):
    values = {
        "updates": 4,
        "schedule": {"kind": "polynomial", "learning_rate": 1e-3},
        "batch_seconds": 4,
        "crop": {"min_seconds": 0.4, "max_seconds": 1.0},
        "contrastive": HEADS,
        **changes,
    }
    return load_recipe(PretrainRecipe, write(folder, **values))


def finetuning(folder, **changes):
    stage = {"name": "ctc", "objective": "ctc", "schedule": SCHEDULE, "utterances": 4, "batch_seconds": 4.0}
    return load_recipe(FinetuneRecipe, write(folder, **{"stages": [stage], **changes}))


def save_fixed(folder, **changes):
    torch.manual_seed(3)
    model = build_model(ModelConfig(**{**FIXED, "vocab_size": 32, **changes}))
    save_model(folder, model, Alphabet.english())
    return model


def weights(run_folder):
    return load_model(run_folder / "model").model.state_dict()


# ---- draws -------------------------------------------------------------------------------------------------------


def test_every_micro_batch_has_its_own_point_the_same_one_in_every_process_and_after_a_restart():
    config = STOCHASTIC_TOYS["stochastic-sew"]
    batch = make_batch([np.zeros(9, np.float32)], [""], None)
    empty = make_batch([], [], None)  # this process's share of a small update
    of_rank = [DrawnPoints(lambda update, own=own: [own] * 3, config, seed=5) for own in (batch, empty)]
    for update in (0, 7, 3):
        points = [[batch.compute for batch in batches(update)] for batches in of_rank]
        assert points[0] == points[1] == [draw_compute(config, 5, update, index) for index in range(3)]
    assert len({batch.compute for update in range(9) for batch in of_rank[0](update)}) > 8


def test_batches_of_a_fixed_model_are_left_as_they_are():
    batches = [make_batch([np.zeros(9, np.float32)], [""], None)]
    assert DrawnPoints(lambda update: batches, TOYS["sew"], seed=5)(0) is batches


def test_an_objective_runs_at_the_point_of_its_batch():
    model = toy_model("stochastic-sew")
    batch = make_batch([synthetic_speech(16_000)], ["YES"], Alphabet.english())
    with torch.no_grad():
        losses = {
            point: float(CTC(model, intermediate_weight=0.5)(replace(batch, compute=point)).total)
            for point in operating_points(model.config)
        }
        plain = float(CTC(model, intermediate_weight=0.5)(batch).total)
    assert len({round(loss, 3) for loss in losses.values()}) == 16
    assert losses[Compute(1)] == plain


def test_pre_training_runs_at_the_point_of_its_batch():
    objective = Contrastive(toy_model("stochastic-sew"), ContrastiveSettings(**HEADS)).eval()
    batch = make_batch([synthetic_speech(16_000)], [""], None)
    with torch.no_grad():
        losses = {
            round(float(objective(replace(batch, compute=point), 0).total), 3)
            for point in operating_points(objective.model.config)
        }
    assert len(losses) == 16


# ---- runs --------------------------------------------------------------------------------------------------------


def test_stochastic_pre_training_then_fine_tuning_then_one_setting(folder):
    pretrain.run(pretraining(folder, model=STOCHASTIC), folder / "pretrained")
    encoder = load_model(folder / "pretrained" / "model").model.config
    assert (encoder.squeeze_factors, encoder.kv_pools) == ((1, 2, 3, 4), (1, 2))
    start = str(folder / "pretrained" / "model")
    finetune.run(finetuning(folder, init=start), folder / "all")
    assert load_model(folder / "all" / "model").model.config.is_stochastic
    finetune.run(finetuning(folder, init=start, compute="squeeze=3"), folder / "one")
    raw = json.loads((folder / "one" / "model" / "config.json").read_text())
    assert (raw["model_type"], raw["squeeze_factor"]) == ("sew", 3)
    assert not torch.equal(weights(folder / "one")["head.weight"], weights(folder / "all")["head.weight"])


def test_a_fixed_model_becomes_stochastic_and_all_its_ways_up_are_trained(folder):
    save_fixed(folder / "start")
    recipe = finetuning(folder, init=str(folder / "start"), stochastic={"kv_pools": [1]}, seed=2)
    model = finetune.start_model(recipe).model
    assert (model.config.squeeze_factors, model.config.kv_pools) == ((1, 2, 3, 4), (1,))
    updates = 24
    drawn = {draw_compute(model.config, 2_000, update, index).squeeze for update in range(updates) for index in (0, 1)}
    assert drawn == {1, 2, 3, 4}
    stage = {"name": "ctc", "objective": "ctc", "schedule": SCHEDULE, "utterances": updates, "batch_seconds": 4.0}
    recipe = finetuning(folder, init=str(folder / "start"), stochastic={"kv_pools": [1]}, seed=2, stages=[stage])
    finetune.run(recipe, folder / "out")
    before, after = model.state_dict(), weights(folder / "out")
    for factor in (1, 2, 3, 4):
        name = f"upsample.{factor}.linear.weight"
        assert not torch.equal(before[name], after[name])


@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_stopped_stochastic_run_ends_with_the_same_model(folder, stopped_after):
    recipe = pretraining(folder, model={**STOCHASTIC, "dropout": MODEL["dropout"]}, draw_per_layer=True)
    pretrain.run(recipe, folder / "whole")
    for _ in range(4):
        pretrain.run(recipe, folder / "stopped", resume=True, stop_after=stopped_after)
    pretrain.run(recipe, folder / "stopped", resume=True)
    whole, stopped = weights(folder / "whole"), weights(folder / "stopped")
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one(folder):
    """As in test_pretrain.py: the same points at the same updates, sums in another order."""
    contrastive = {**HEADS, "dropout_features": 0}
    changes = {"model": STOCHASTIC, "contrastive": contrastive, "threads": 1, "device_seconds": 8, "updates": 6}
    pretrain.run(pretraining(folder, **changes), folder / "one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "sewkit", "pretrain", "-c", str(folder / "recipe.yaml"), "-o", str(folder / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    curves = []
    for name in ("one", "two"):
        lines = [json.loads(line) for line in (folder / name / "log.jsonl").read_text().splitlines()]
        curves.append([line["loss"] for line in lines if "loss" in line])
    assert len(curves[0]) == 6
    assert curves[0] == pytest.approx(curves[1], rel=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": STOCHASTIC, "stochastic": {}}, "stochastic is for the model of init"),
        ({"model": STOCHASTIC, "compute": "fast"}, "operating point 'fast': expected some of squeeze"),
        ({"model": STOCHASTIC, "compute": {"squeeze": 3}}, "compute: Input should be a valid string"),
        ({"init": "x", "stochastic": {"squeezes": [1]}}, "stochastic.squeezes: no such field"),
    ],
)
def test_a_recipe_of_impossible_points_is_refused_with_file_and_key(folder, changes, message):
    with pytest.raises(RecipeError, match=message):
        pretraining(folder, **changes)


def test_a_point_that_the_model_lacks_is_refused_before_anything_is_trained(folder):
    save_fixed(folder / "start")
    with pytest.raises(ValueError, match="does not run at squeeze=4; it runs at: squeeze=2 only"):
        finetune.run(finetuning(folder, init=str(folder / "start"), compute="squeeze=4"), folder / "out")
    assert not (folder / "out" / "log.jsonl").exists()


def test_strings_have_the_points_of_one_process_in_each_of_several(folder):
    """Lanes are shared out whole: the points must not tell how many processes share them."""
    strings = [{"updates": 6, "num_words": [1, 2], "words_per_batch": 4}]
    stage = {"name": "ctc", "objective": "ctc", "schedule": SCHEDULE, "strings": strings}
    recipe = finetuning(folder, model=STOCHASTIC, stages=[stage], micro_batches=2)
    (built,) = finetune.build_stages(recipe, finetune.start_model(recipe), torch.device("cpu"))
    whole = built.batches
    points = [[batch.compute for batch in whole(update)] for update in range(6)]
    assert all(len(set(of_update)) == 1 for of_update in points)
    assert len({of_update[0] for of_update in points}) > 2
    for rank in (0, 1):
        whole.batches.rank, whole.batches.world = rank, 2
        assert [[batch.compute for batch in whole(update)] for update in range(6)] == [one[:1] for one in points]


def test_dev_sets_are_measured_at_the_points_that_the_recipe_lists(folder):
    dev = [{"name": "own", "manifest": "manifest.jsonl"}]
    at = ["squeeze=4,kv_pool=2", "squeeze=1"]
    torch.manual_seed(0)
    finetune.run(finetuning(folder, model=STOCHASTIC, dev=dev, validate_at=at), folder / "letters")
    last = json.loads((folder / "letters" / "log.jsonl").read_text().splitlines()[-1])
    assert last["cer_own@squeeze=1"] == last["cer_own"]
    assert last["cer_own@squeeze=4,kv_pool=2"] >= 0
    pretrain.run(pretraining(folder, model=STOCHASTIC, dev=dev, validate_at=at), folder / "encoder")
    last = json.loads((folder / "encoder" / "log.jsonl").read_text().splitlines()[-1])
    assert last["contrastive_own@squeeze=1"] == last["contrastive_own"]
    assert last["contrastive_own@squeeze=4,kv_pool=2"] != last["contrastive_own"]


def test_a_point_to_measure_that_the_model_lacks_is_refused(folder):
    dev = [{"name": "own", "manifest": "manifest.jsonl"}]
    with pytest.raises(ValueError, match="does not run at squeeze=4; it runs at: squeeze=2 only"):
        finetune.prepare(finetuning(folder, model=FIXED, dev=dev, validate_at=["squeeze=4"]), folder / "out")
    with pytest.raises(RecipeError, match="operating point 'quick'"):
        finetuning(folder, model=FIXED, validate_at=["quick"])

"""Recipes and whole runs on toy data."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_recipes import MODEL, SCHEDULE, STAGES, write_recipe, write_rows

from sewkit.checkpoint import load_model, save_model
from sewkit.config import ModelConfig
from sewkit.data.manifest import ManifestError
from sewkit.model import build_model
from sewkit.text import Alphabet
from sewkit.train.finetune import run
from sewkit.train.recipe import FinetuneRecipe, RecipeError, load_recipe


def utterance_stage(**changes):
    return {"name": "ctc", "objective": "ctc", "schedule": SCHEDULE, "utterances": 6, "batch_seconds": 1.0, **changes}


def save_toy(folder, **changes):
    torch.manual_seed(3)
    model = build_model(ModelConfig(**{**MODEL, "vocab_size": 32, **changes}))
    save_model(folder, model, Alphabet.english() if model.config.vocab_size else None)
    return model


def test_a_model_trains_from_random_weights_and_is_saved_for_use(folder):
    run(load_recipe(FinetuneRecipe, write_recipe(folder, average_decay=0.5)), folder / "out")
    loaded = load_model(folder / "out" / "model")
    assert loaded.model.config.num_layers == 2
    assert loaded.alphabet == Alphabet.english()
    logits, lengths = loaded.model(torch.zeros(1, 8000), torch.tensor([8000]))
    assert logits.shape == (1, int(lengths), 32)
    lines = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"log-mel", "flat-start", "ctc"}
    assert any("wer_tones" in line for line in lines)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_with_the_same_model(folder):
    """SIGKILL, twice, wherever it happens to be; the resumed run repeats what came after its last checkpoint."""
    stages = [utterance_stage(utterances=200)]
    path = write_recipe(folder, stages=stages, checkpoint_seconds=0.2, threads=1, log_every=1, validate_every=1000)
    command = [sys.executable, "-m", "sewkit", "finetune", "-c", str(path), "-o", str(folder / "killed")]
    log = folder / "killed" / "log.jsonl"
    for num_lines in (30, 90):
        process = subprocess.Popen([*command, "--resume"], stderr=subprocess.DEVNULL)
        while not log.exists() or log.read_text().count("\n") < num_lines:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (folder / "killed" / "model").exists()
    subprocess.run([*command, "--resume"], check=True, stderr=subprocess.DEVNULL)
    run(load_recipe(FinetuneRecipe, path), folder / "whole")
    whole, killed = (load_model(folder / name / "model").model.state_dict() for name in ("whole", "killed"))
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


@pytest.mark.parametrize("stopped_after", [2, 3])
def test_a_stopped_run_ends_with_the_same_model(folder, stopped_after):
    recipe = load_recipe(FinetuneRecipe, write_recipe(folder))
    run(recipe, folder / "whole")
    for _ in range(5):
        run(recipe, folder / "stopped", resume=True, stop_after=stopped_after)
    run(recipe, folder / "stopped", resume=True)
    whole, stopped = (load_model(folder / name / "model").model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


def test_fine_tuning_starts_from_a_folder_and_leaves_the_extractor_alone(folder):
    start = save_toy(folder / "start")
    stage = utterance_stage(train_extractor=False, freeze_updates=2)
    recipe = write_recipe(folder, model=None, init=str(folder / "start"), stages=[stage])
    run(load_recipe(FinetuneRecipe, recipe), folder / "out")
    tuned = load_model(folder / "out" / "model").model
    same = {name: torch.equal(value, tuned.state_dict()[name]) for name, value in start.state_dict().items()}
    assert all(equal for name, equal in same.items() if name.startswith("features."))
    assert not same["head.weight"]
    assert sum(not equal for name, equal in same.items() if name.startswith("encoder.")) > 5


def test_only_the_head_moves_while_frozen(folder):
    start = save_toy(folder / "start")
    stage = utterance_stage(train_extractor=False, freeze_updates=6)
    recipe = write_recipe(folder, model=None, init=str(folder / "start"), stages=[stage])
    run(load_recipe(FinetuneRecipe, recipe), folder / "out")
    tuned = load_model(folder / "out" / "model").model.state_dict()
    moved = {name for name, value in start.state_dict().items() if not torch.equal(value, tuned[name])}
    assert moved <= {"head.weight", "head.bias"}
    assert moved


def test_a_bare_encoder_gets_a_head(folder):
    save_toy(folder / "start", vocab_size=None)
    recipe = write_recipe(folder, model=None, init=str(folder / "start"), stages=[utterance_stage()])
    run(load_recipe(FinetuneRecipe, recipe), folder / "out")
    assert load_model(folder / "out" / "model").model.config.vocab_size == 32


def test_texts_outside_the_alphabet_are_refused_before_training(folder):
    row = {"audio": "0.wav", "text": "Ω", "speaker": "x", "duration": 0.3, "split": "train"}
    write_rows(folder, [row, {**row, "split": "dev", "text": "NO"}])
    with pytest.raises(ManifestError, match=r"0\.wav: characters outside the alphabet: Ω"):
        run(load_recipe(FinetuneRecipe, write_recipe(folder, stages=[utterance_stage()])), folder / "out")


def test_utterances_too_short_for_their_text_are_left_out_and_named(folder):
    row = {"audio": "0.wav", "text": "NO", "speaker": "x", "duration": 0.3, "split": "train"}
    long = "A MUCH TOO LONG TEXT"
    write_rows(folder, [row, {**row, "audio": "1.wav", "text": long}, {**row, "split": "dev"}])
    with pytest.warns(UserWarning, match=rf"1 of 2 utterances are too short .*1\.wav \(0\.3 s for '{long}'\)"):
        run(load_recipe(FinetuneRecipe, write_recipe(folder, stages=[utterance_stage()])), folder / "out")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"model": None}, "give either model"),
        ({"init": "somewhere"}, "give either model"),
        ({"stages": [{**STAGES[2], "utterances": 5}]}, "stages.0: .*give either strings"),
        ({"stages": [{**STAGES[2], "schedule": {}}]}, "stages.0.schedule.learning_rate: Field required"),
        ({"stages": [utterance_stage(objective="flat_start")]}, "flat_start needs strings"),
        ({"average_decay": 1.0}, "average_decay"),
    ],
)
def test_a_wrong_recipe_is_refused_with_file_and_key(folder, changes, problem):
    with pytest.raises(RecipeError, match=problem) as caught:
        load_recipe(FinetuneRecipe, write_recipe(folder, **changes))
    assert str(caught.value).startswith(str(folder / "recipe.yaml"))
    assert "\n" not in str(caught.value)


def test_overrides_reach_into_the_recipe(folder):
    path = write_recipe(folder)
    recipe = load_recipe(
        FinetuneRecipe,
        path,
        ["data_root=/elsewhere", "stages.1.schedule.learning_rate=2e-4", "seed=7", "model.num_layers=3"],
    )
    assert recipe.data_root == Path("/elsewhere")
    assert recipe.stages[1].schedule.learning_rate == 2e-4
    assert (recipe.seed, recipe.model.num_layers) == (7, 3)
    for wrong in ("seed", "stages.9.name=x"):
        with pytest.raises(RecipeError, match=re.escape(f"--set {wrong}")):
            load_recipe(FinetuneRecipe, path, [wrong])


def test_the_committed_recipe_is_valid_and_fits_twelve_megabytes_in_half_precision():
    recipe = load_recipe(FinetuneRecipe, Path(__file__).parents[2] / "recipes" / "bundled.yaml")
    model = build_model(recipe.model.replace(vocab_size=32))
    assert 2 * model.num_parameters() < 12e6
    assert all((recipe.folder / dev.manifest).exists() for dev in recipe.dev)

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
from typer.testing import CliRunner

from sewkit.checkpoint import load_model, save_model
from sewkit.cli.main import app
from sewkit.config import ModelConfig
from sewkit.data.manifest import ManifestError, load_utterance, read_manifest
from sewkit.errors import UserError
from sewkit.evaluate.wer import cer_with_interval
from sewkit.lengths import num_frames
from sewkit.model import build_model
from sewkit.recognizer import load
from sewkit.text import Alphabet
from sewkit.train import loop
from sewkit.train.finetune import prepare, run, start_model
from sewkit.train.recipe import FinetuneRecipe, RecipeError, load_recipe
from sewkit.train.state import Checkpoints
from sewkit.train.validation import Validation


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


def test_a_processor_without_bfloat16_trains_in_float32_and_says_so(folder, monkeypatch, caplog):
    recipe = load_recipe(FinetuneRecipe, write_recipe(folder, precision="bf16"))
    monkeypatch.setattr(loop, "multiplies", lambda dtype, device: False)
    assert prepare(recipe, folder / "out")[2].precision == "fp32"
    assert "training in fp32, where the recipe says bf16" in caplog.text
    monkeypatch.setattr(loop, "multiplies", lambda dtype, device: True)
    assert prepare(recipe, folder / "out")[2].precision == "bf16"


def test_validation_reads_no_letters_from_the_zero_tail(folder):
    """So that it measures what recognition will give."""
    model = save_toy(folder / "toy", squeeze_factor=3)
    with torch.no_grad():
        model.head.weight.mul_(10)
        model.head.bias[Alphabet.english().tokens.index("E")] = 1.0
    save_model(folder / "toy", model, Alphabet.english())
    recipe = load_recipe(FinetuneRecipe, write_recipe(folder, model=None, init=str(folder / "toy")))
    rows = read_manifest(folder / "manifest.jsonl", "dev")
    assert all(num_frames(round(row.duration * 16000), model.config.conv_layers) % 3 for row in rows)
    found = Validation(recipe, load_model(folder / "toy"), torch.device("cpu"))()
    heard = [one.text for one in load(folder / "toy").transcribe_batch(map(load_utterance, rows))]
    assert all(heard)
    assert found["cer_tones"] == pytest.approx(cer_with_interval([row.text for row in rows], heard).rate)


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


@pytest.mark.parametrize("stopped_after", [3, None])
def test_a_run_is_not_resumed_with_another_recipe(folder, stopped_after):
    """Stopped or finished: its model card would say what was not done."""
    path = write_recipe(folder)
    run(load_recipe(FinetuneRecipe, path), folder / "out", stop_after=stopped_after)
    other = load_recipe(FinetuneRecipe, path, ["seed=7", "stages.1.schedule.learning_rate=0.5", "train.0.weight=2"])
    with pytest.raises(UserError, match="the run was begun with another recipe") as caught:
        run(other, folder / "out", resume=True)
    for change in ("seed: 0, now 7", "stages.1.schedule.learning_rate: 0.001, now 0.5", "train.0.weight: 1.0, now 2.0"):
        assert change in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not stopped_after or not (folder / "out" / "model").exists()


def test_a_run_is_resumed_elsewhere_and_watched_otherwise_to_the_same_model(folder):
    path = write_recipe(folder)
    run(load_recipe(FinetuneRecipe, path), folder / "whole")
    run(load_recipe(FinetuneRecipe, path), folder / "stopped", stop_after=2)
    changes = ["log_every=1", "validate_every=5", "checkpoint_seconds=0", "keep_checkpoints=9", "device=cpu"]
    (folder / "moved").mkdir()
    moved = path.rename(folder / "moved" / "recipe.yaml")
    run(load_recipe(FinetuneRecipe, moved, changes), folder / "stopped", resume=True)
    whole, stopped = (load_model(folder / name / "model").model.state_dict() for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


def test_a_finished_run_says_so_and_where_its_model_is(folder, caplog):
    arguments = ["-c", str(write_recipe(folder)), "-o", str(folder / "out")]
    for resume in ([], ["--resume"]):
        result = CliRunner().invoke(app, ["finetune", *arguments, *resume])
        assert result.exit_code == 0, result.output
        assert result.stderr.splitlines()[-1] == f"sewkit: the model is in {folder / 'out' / 'model'}"
        assert ("out: the run is finished, there is nothing left to train" in caplog.text) == bool(resume)


def test_a_run_from_before_recipes_were_kept_is_resumed_and_keeps_its_recipe(folder):
    recipe = load_recipe(FinetuneRecipe, write_recipe(folder))
    run(recipe, folder / "out", stop_after=2)
    (path,) = Checkpoints(folder / "out").paths()
    stored = torch.load(path, weights_only=True)
    assert stored.pop("recipe")["seed"] == 0
    torch.save(stored, path)
    run(recipe, folder / "out", resume=True)
    with pytest.raises(UserError, match="seed: 0, now 7"):
        run(recipe.model_copy(update={"seed": 7}), folder / "out", resume=True)


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


def test_rows_that_cannot_be_learned_are_left_out_by_rule_and_named(folder, caplog):
    row = {"audio": "0.wav", "text": "NO", "speaker": "x", "duration": 0.3, "split": "train"}
    long = {**row, "audio": "1.wav", "text": "A MUCH TOO LONG TEXT"}
    foreign = {**row, "audio": "2.wav", "text": "Ω"}
    write_rows(folder, [row, long, foreign, {**row, "split": "dev"}])
    run(load_recipe(FinetuneRecipe, write_recipe(folder, stages=[utterance_stage()])), folder / "out")
    assert "1 of 3 rows can be used" in caplog.text
    assert "1.wav: 14 frames, 21 needed" in caplog.text
    assert "2.wav: characters outside the alphabet: Ω" in caplog.text


def test_training_on_nothing_is_refused_before_it_starts(folder):
    row = {"audio": "0.wav", "text": "Ω", "speaker": "x", "duration": 0.3, "split": "train"}
    write_rows(folder, [row, {**row, "split": "dev", "text": "NO"}])
    with pytest.raises(ManifestError, match=r"none of the 1 rows .*0\.wav: characters outside the alphabet: Ω"):
        run(load_recipe(FinetuneRecipe, write_recipe(folder, stages=[utterance_stage()])), folder / "out")


def test_whole_utterances_of_other_sources_train_beside_strings(folder):
    """Strings hold words of the first source only, the utterances beside them are all of the second."""
    words = {"audio": "0.wav", "text": "NO", "speaker": "x", "duration": 0.3, "split": "train"}
    write_rows(folder, [words, {**words, "split": "dev"}])
    (folder / "read.jsonl").write_text(json.dumps({**words, "audio": "1.wav", "text": "YES"}) + "\n")
    sources = [{"manifest": "manifest.jsonl", "weight": 1.0}, {"manifest": "read.jsonl", "weight": 0}]
    stage = {**STAGES[2], "strings": [{"updates": 4, "words_per_batch": 6}], "beside_seconds": 2.0}
    path = write_recipe(folder, train=sources, stages=[stage])
    _, [built], _ = prepare(load_recipe(FinetuneRecipe, path), folder / "out")
    strings, beside = built.batches(0)
    letters = Alphabet.english()
    assert set(strings.labels.flatten().tolist()) == set(letters.encode("NO"))
    assert beside.labels.flatten().tolist() == letters.encode("YES")
    with pytest.raises(RecipeError, match="no source of train has weight 0"):
        prepare(load_recipe(FinetuneRecipe, write_recipe(folder, stages=[stage])), folder / "out")


def test_strings_of_no_source_are_refused(folder):
    path = write_recipe(folder, train=[{"manifest": "manifest.jsonl", "weight": 0}])
    with pytest.raises(RecipeError, match="no source of train has a weight above 0"):
        prepare(load_recipe(FinetuneRecipe, path), folder / "out")


def test_a_dev_set_without_texts_is_refused_before_training(folder):
    """Not measured as if nobody spoke there."""
    row = {"audio": "0.wav", "text": "NO", "speaker": "x", "duration": 0.3, "split": "train"}
    write_rows(folder, [row, {**row, "text": None, "split": "dev"}])
    with pytest.raises(ManifestError, match="no text"):
        prepare(load_recipe(FinetuneRecipe, write_recipe(folder)), folder / "out")


def test_dev_recordings_that_lie_elsewhere_are_noticed_before_training(folder):
    row = {"audio": "0.wav", "text": "NO", "speaker": "x", "duration": 0.3, "split": "train"}
    write_rows(folder, [row, {**row, "audio": "elsewhere/0.wav", "split": "dev"}])
    with pytest.raises(UserError, match=r"elsewhere/0\.wav: no such file"):
        prepare(load_recipe(FinetuneRecipe, write_recipe(folder)), folder / "out")


CLASSES = {"name": "classes", "objective": "classify", "schedule": {"learning_rate": 3e-3}, "utterances": 60}


def test_a_model_learns_to_classify_by_a_column_and_is_saved_with_its_labels(folder):
    stage = {**CLASSES, "batch_seconds": 3.0, "masking": {"time_prob": 0.1, "time_length": 2}}
    recipe = load_recipe(FinetuneRecipe, write_recipe(folder, stages=[stage], label_column="text", validate_every=60))
    run(recipe, folder / "out")
    loaded = load_model(folder / "out" / "model")
    assert (loaded.labels, loaded.label_column) == (("NO", "YES"), "text")
    lines = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["accuracy_tones"] == 1.0  # two pitches


def test_classes_may_be_numbers_but_not_empty(folder):
    row = {"audio": "0.wav", "duration": 0.3, "split": "train"}
    write_rows(folder, [{**row, "speaker": 1}, {**row, "speaker": 2}, {**row, "speaker": 2, "split": "dev"}])
    path = write_recipe(folder, stages=[{**CLASSES, "utterances": 1}], label_column="speaker")
    run(load_recipe(FinetuneRecipe, path), folder / "out")
    assert load_model(folder / "out" / "model").labels == ("1", "2")
    write_rows(folder, [{**row, "speaker": ""}, {**row, "speaker": 2, "split": "dev"}])
    with pytest.raises(ManifestError, match="nothing in column 'speaker'"):
        prepare(load_recipe(FinetuneRecipe, path), folder / "other")


def test_a_classifier_starts_from_an_encoder_and_keeps_its_head_where_the_labels_are_the_same(folder):
    save_toy(folder / "start", vocab_size=None)
    changes = {"model": None, "stages": [{**CLASSES, "utterances": 2}], "label_column": "text"}
    run(load_recipe(FinetuneRecipe, write_recipe(folder, init=str(folder / "start"), **changes)), folder / "one")
    first = load_model(folder / "one" / "model").model
    again = start_model(
        load_recipe(FinetuneRecipe, write_recipe(folder, init=str(folder / "one" / "model"), **changes))
    )
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"colour": "red"}, "colour: no such field"),
        ({"model": None}, "give either model"),
        ({"init": "somewhere"}, "give either model"),
        ({"stages": [{**STAGES[2], "utterances": 5}]}, "stages.0: .*give either strings"),
        ({"stages": [utterance_stage(beside_seconds=5.0)]}, "beside_seconds is for ctc on strings"),
        ({"stages": [{**STAGES[2], "schedule": {}}]}, "stages.0.schedule.learning_rate: Field required"),
        ({"stages": [utterance_stage(objective="flat_start")]}, "flat_start needs strings"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"stages": [CLASSES]}, "classify needs label_column"),
        ({"label_column": "speaker"}, "classify needs label_column"),
        ({"stages": [CLASSES, STAGES[2]], "label_column": "text"}, "either every stage is classify or none"),
        ({"model": "sew-huge"}, "no published size 'sew-huge'; there are w2v2-base"),
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


def test_the_recipe_that_makes_the_bundled_model_stochastic_is_valid():
    recipe = load_recipe(FinetuneRecipe, Path(__file__).parents[2] / "recipes" / "bundled-stochastic.yaml")
    assert recipe.stochastic is not None
    assert all((recipe.folder / dev.manifest).exists() for dev in recipe.dev)

"""A matrix of experiments: its cells, what is skipped and resumed, and what each leaves."""

import json
from pathlib import Path

import pytest
import soundfile
import yaml
from toy_recipes import MODEL, write_rows
from typer.testing import CliRunner

from sewkit.cli.main import app
from sewkit.errors import UserError
from sewkit.testing import synthetic_speech
from sewkit.train import cells as running
from sewkit.train.cells import run_matrix
from sewkit.train.loop import Settings
from sewkit.train.matrix import cells_of, changed, fingerprint, load_matrix, recipe_of, result_of
from sewkit.train.recipe import RecipeError
from sewkit.train.seeds import mean_over_seeds, table_of
from sewkit.train.signals import Stopped

SHARED = {"train": [{"manifest": "manifest.jsonl"}], "dev": [{"name": "own", "manifest": "manifest.jsonl"}]}
SCHEDULE = {"learning_rate": 1e-3}
PRETRAIN = {
    **SHARED,
    "model": MODEL,
    "updates": 2,
    "schedule": SCHEDULE,
    "batch_seconds": 2,
    "crop": {"min_seconds": 0.3},
    "contrastive": {"mlp_size": 8, "entries": 8, "vq_dim": 8, "final_dim": 8, "num_negatives": 5},
    "log_every": 1,
}
STAGE = {"name": "ctc", "objective": "ctc", "schedule": SCHEDULE, "utterances": 2, "batch_seconds": 4.0}
EXPERIMENTS = [
    {
        "name": "encoder",
        "verb": "pretrain",
        "recipe": "pretrain.yaml",
        "arms": {"linear": {"contrastive.heads": "linear"}, "mlp": {"contrastive.heads": "mlp", "updates": 1}},
    },
    {
        "name": "letters",
        "verb": "finetune",
        "recipe": "finetune.yaml",
        "after": "encoder",
        "set": {"stages.0.utterances": 1},
        "test": [{"name": "own", "manifest": "manifest.jsonl", "split": "test"}],
    },
]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They take longer than the training."""
    monkeypatch.setattr("sewkit.train.summary.write_report", lambda folder: None)


@pytest.fixture
def folder(tmp_path):
    rows = []
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", synthetic_speech(8000, seed=number), 16_000)
        row = {"audio": f"{number}.wav", "text": "YES", "speaker": "x", "duration": 0.5}
        rows.append({**row, "split": ("train", "train", "train", "train", "dev", "test")[number]})
    write_rows(tmp_path, rows)
    for name, values in (("pretrain", PRETRAIN), ("finetune", {**SHARED, "model": MODEL, "stages": [STAGE]})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"data_root": str(tmp_path), **values}))
    return tmp_path


def matrix_of(folder, experiments=EXPERIMENTS, **changes):
    values = {"output": str(folder / "runs"), "results": str(folder / "results"), "experiments": experiments, **changes}
    path = folder / "matrix.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return load_matrix(path)


def names(matrix):
    return [cell.name for cell in cells_of(matrix)]


def refuse(*arguments, **named):
    raise AssertionError("nothing is to be trained")


def test_cells_are_the_product_of_arms_seeds_and_what_comes_before(folder):
    first, second = EXPERIMENTS
    assert names(matrix_of(folder, seeds=[1, 2])) == [
        *("encoder-linear-seed1", "encoder-linear-seed2", "encoder-mlp-seed1", "encoder-mlp-seed2"),
        *("letters-linear-seed1", "letters-linear-seed2", "letters-mlp-seed1", "letters-mlp-seed2"),
    ]
    second = {**second, "seeds": [5, 6], "arms": {"short": {}, "long": {"stages.0.utterances": 9}}}
    assert names(matrix_of(folder, [{**first, "arms": {"": {}}}, second])) == [
        "encoder-seed0",
        *("letters-short-seed0-5", "letters-short-seed0-6", "letters-long-seed0-5", "letters-long-seed0-6"),
    ]


def test_a_cells_recipe_has_all_changes_and_starts_from_the_cell_before(folder):
    matrix = matrix_of(folder, seeds=[4])
    recipes = {cell.name: recipe_of(matrix, cell) for cell in cells_of(matrix)}
    assert recipes["encoder-mlp-seed4"].contrastive.heads == "mlp"
    assert recipes["encoder-mlp-seed4"].updates == 1
    letters = recipes["letters-linear-seed4"]
    assert letters.init == folder / "runs" / "encoder-linear-seed4" / "model"
    assert (letters.seed, letters.stages[0].num_updates, letters.model) == (4, 1, None)


def test_a_matrix_runs_leaves_a_json_a_cell_and_runs_no_cell_twice(folder, monkeypatch):
    matrix, said = matrix_of(folder), []
    assert run_matrix(matrix, {"cpu": "x"}, said.append) == {}
    assert [line.split(", ")[0] for line in said] == [f"[{n + 1}/4] {name}" for n, name in enumerate(names(matrix))]
    facts = json.loads((folder / "results" / "letters-mlp-seed0.json").read_text())
    assert (facts["after"], facts["updates"], facts["hardware"]) == ("encoder-mlp-seed0", 1, {"cpu": "x"})
    assert facts["seconds"] > 0  # though the run ended before its first regular log line
    assert facts["evaluated"].keys() == {"own dev", "own test"}
    wer = facts["evaluated"]["own test"]["wer"]
    assert wer["low"] <= wer["rate"] <= wer["high"]
    assert facts["evaluated"]["own test"]["cer"]["num_units"] == 3
    facts = json.loads((folder / "results" / "encoder-linear-seed0.json").read_text())
    assert facts["updates"] == 2
    assert 0 <= facts["measured"]["accuracy_own"] <= 1
    assert facts["seconds"] > 0
    assert table_of(matrix)["letters linear"]["wer own test"].num_seeds == 1

    monkeypatch.setattr(running, "run_cell", refuse)
    assert run_matrix(matrix, {}, said.append) == {}
    (folder / "results" / "letters-mlp-seed0.json").unlink()
    with pytest.raises(AssertionError, match="nothing is to be trained"):
        run_matrix(matrix, {}, said.append)


def test_a_result_of_other_settings_is_refused_and_so_is_a_run(folder):
    experiments = [{**EXPERIMENTS[0], "arms": {"": {}}}]
    matrix = matrix_of(folder, experiments)
    run_matrix(matrix, {}, print)
    (cell,) = cells_of(matrix)
    changed = matrix_of(folder, [{**experiments[0], "set": {"schedule.learning_rate": 2e-3}}])
    with pytest.raises(UserError, match=r"encoder-seed0\.json: is of other settings"):
        result_of(changed, cells_of(changed)[0])
    (folder / "results" / "encoder-seed0.json").unlink()
    assert list(run_matrix(changed, {}, print)) == ["encoder-seed0"]
    elsewhere = matrix_of(folder, experiments, output=str(folder / "elsewhere"))
    assert fingerprint(matrix, cell) == fingerprint(elsewhere, cells_of(elsewhere)[0])


def test_a_stopped_cell_goes_on(folder, monkeypatch):
    matrix = matrix_of(folder, [{**EXPERIMENTS[0], "arms": {"": {"updates": 4}}}])
    settings = running.pretrain.loop_settings

    def stop_halfway(recipe, output, device, stop_after) -> Settings:
        return settings(recipe, output, device, 2)

    monkeypatch.setattr(running.pretrain, "loop_settings", stop_halfway)
    monkeypatch.setattr(running, "describe", lambda *arguments: (_ for _ in ()).throw(Stopped("stopped")))
    with pytest.raises(Stopped):
        run_matrix(matrix, {}, print)
    monkeypatch.undo()
    monkeypatch.setattr("sewkit.train.summary.write_report", lambda folder: None)
    assert run_matrix(matrix, {}, print) == {}
    (cell,) = cells_of(matrix)
    assert result_of(matrix, cell)["updates"] == 4
    steps = [json.loads(line)["step"] for line in (folder / "runs" / cell.name / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 4]


def test_a_cell_that_fails_stops_only_what_starts_from_it(folder):
    experiments = [{**EXPERIMENTS[0], "arms": {"bad": {"crop.min_seconds": 9}, "good": {}}}, EXPERIMENTS[1]]
    failed = run_matrix(matrix_of(folder, experiments), {}, print)
    assert failed.keys() == {"encoder-bad-seed0", "letters-bad-seed0"}
    assert "lower min_seconds" in failed["encoder-bad-seed0"]
    assert {path.stem for path in (folder / "results").iterdir()} == {"encoder-good-seed0", "letters-good-seed0"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"after": "nothing"}, "after 'nothing', which is no experiment"),
        ({"name": "encoder"}, "two experiments 'encoder'"),
        ({"verb": "evaluate"}, r"experiments\.1\.verb"),
        ({"arms": {"a/b": {}}}, r"experiments\.1\.arms"),
        ({"after": None, "name": "encoder-mlp"}, "two cells are called encoder-mlp-seed0"),
    ],
)
def test_a_matrix_that_cannot_be_run_is_one_line(folder, changes, message):
    with pytest.raises(RecipeError, match=message):
        matrix_of(folder, [EXPERIMENTS[0], {**EXPERIMENTS[1], **changes}])


def test_the_matrix_that_comes_along_resolves():
    matrix = load_matrix(Path(__file__).parents[2] / "recipes" / "small" / "matrix-heads.yaml")
    recipes = {cell.name: recipe_of(matrix, cell) for cell in cells_of(matrix)}
    assert len(recipes) == 9 + 9 + 3
    assert recipes["encoder-w2v2-seed3"].model.family == "wav2vec2"
    assert recipes["words-sew-mlp-seed3"].init == Path("runs/small/heads/encoder-sew-mlp-seed3/model")
    assert recipes["words-scratch-seed1"].init is None


def test_the_stochastic_matrices_resolve():
    """Also that a change of the bundled weights leaves the start of all cells alone."""
    folder = Path(__file__).parents[2] / "recipes" / "small"
    matrix = load_matrix(folder / "matrix-stochastic.yaml")
    recipes = {cell.name: recipe_of(matrix, cell) for cell in cells_of(matrix)}
    assert len(recipes) == 3 + 9 + 18 + 2 + 6 + 3 + 6
    starts = {str(recipe.init) for name, recipe in recipes.items() if name.startswith(("stochastic", "fixed"))}
    assert starts == {"runs/small/start"}
    assert len({recipes[name].stages[0].num_updates for name in ("stochastic-seed2", "fixed-s4-seed2")}) == 1
    updates = recipes["stochastic-seed3"].stages[0].num_updates
    shares = [recipes[f"specialised-s2-{share}-seed3"].stages[0].num_updates for share in (10, 25)]
    assert shares == [0.1 * updates, 0.25 * updates]
    assert recipes["specialised-s2-10-seed3"].init == Path("runs/small/stochastic/stochastic-seed3/model")
    units = load_matrix(folder / "matrix-position-unit.yaml")
    models = {cell.arm: recipe_of(units, cell).model for cell in cells_of(units) if not cell.parent}
    assert {arm: model.position_unit for arm, model in models.items()} == {"squeezed": None, "frame": 1}
    assert {model.family for model in models.values()} == {"sew-d"}


def test_the_mean_over_seeds_has_students_interval():
    assert mean_over_seeds([0.5]).half_width is None
    mean = mean_over_seeds([1.0, 2.0, 3.0])
    assert (mean.value, mean.num_seeds) == (2.0, 3)
    assert mean.half_width == pytest.approx(4.303 / 3**0.5, rel=1e-3)


def test_the_verb_says_what_is_to_do_and_prints_the_table(folder):
    matrix_of(folder, [{**EXPERIMENTS[0], "arms": {"": {}}}], seeds=[1, 2])
    path = str(folder / "matrix.yaml")
    result = CliRunner().invoke(app, ["matrix", path, "--dry-run"])
    assert result.output.splitlines() == ["to do      encoder-seed1", "to do      encoder-seed2"]
    result = CliRunner().invoke(app, ["matrix", path, "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert rows["encoder"]["accuracy_own"]["num_seeds"] == 2
    assert "2 seeds" in CliRunner().invoke(app, ["matrix", path, "--dry-run"]).stdout


def test_a_fine_tuning_may_come_after_one_and_is_tested_at_every_operating_point(folder):
    sets = {"squeeze_factors": [1, 2], "query_pools": [1], "kv_pools": [1, 2]}
    test = [{"name": name, "manifest": "manifest.jsonl", "split": name} for name in ("dev", "test")]
    first = {"name": "all", "verb": "finetune", "recipe": "finetune.yaml", "test": test, "grid": True}
    model = {**{key: value for key, value in MODEL.items() if key != "squeeze_factor"}, **sets}
    one = {
        **first,
        "name": "one",
        "after": "all",
        "arms": {"s1": {"compute": "squeeze=1"}, "s2": {"compute": "squeeze=2"}},
    }
    matrix = matrix_of(folder, [{**first, "set": {"model": model}}, one])
    assert run_matrix(matrix, {}, print) == {}
    grids = {cell.name: result_of(matrix, cell)["grid"] for cell in cells_of(matrix)}
    assert len(grids["all-seed0"]) == 4
    assert list(grids["one-s2-seed0"]) == ["squeeze=2"]
    rates = grids["one-s2-seed0"]["squeeze=2"]
    assert list(rates) == ["dev dev", "test test", "all"]
    units = [rates[name]["cer"]["num_units"] for name in rates]
    assert units[2] == units[0] + units[1] > 0
    assert "wer all at squeeze=1,kv_pool=2" in table_of(matrix)["all"]


def test_processes_share_a_matrix_by_the_names_of_its_cells(folder):
    matrix = matrix_of(folder)
    assert list(run_matrix(matrix, {}, print, only="letters-mlp-*")) == [
        "letters-mlp-seed0"
    ]  # its encoder is not there
    assert run_matrix(matrix, {}, print, only="*-mlp-*") == {}
    assert {path.stem for path in (folder / "results").iterdir()} == {"encoder-mlp-seed0", "letters-mlp-seed0"}
    with pytest.raises(UserError, match="no cell of the matrix is called like 'x'; there are encoder-linear-seed0, "):
        run_matrix(matrix, {}, print, only="x")


def test_a_matrix_can_be_tried_out_elsewhere_with_other_settings(folder):
    matrix = changed(matrix_of(folder), ["encoder.updates=1", "letters.stages.0.utterances=3"], folder / "try")
    recipes = {cell.name: recipe_of(matrix, cell) for cell in cells_of(matrix)}
    assert (recipes["encoder-linear-seed0"].updates, recipes["letters-mlp-seed0"].stages[0].num_updates) == (1, 3)
    assert (matrix.output, matrix.results) == (folder / "try", folder / "try" / "results")
    for wrong in ("updates=1", "decoder.updates=1", "encoder.updates"):
        with pytest.raises(RecipeError, match=r"expected EXPERIMENT\.KEY=VALUE; the experiments are encoder, letters"):
            changed(matrix_of(folder), [wrong])


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("letters.foo=1", r"letters-linear-seed0: .*finetune\.yaml: foo: no such field"),
        ("letters.stages.9.utterances=1", r"letters-linear-seed0: --set stages\.9\.utterances=1: the recipe has no"),
        ("letters.seed=7", "letters-linear-seed0: seed: is each of the matrix's or the experiment's `seeds`"),
    ],
)
def test_a_wrong_change_of_any_cell_is_refused_before_the_first_runs(folder, override, problem, monkeypatch):
    monkeypatch.setattr(running, "run_cell", refuse)
    with pytest.raises(RecipeError, match=problem):
        run_matrix(changed(matrix_of(folder), [override]), {}, print, only="encoder-*")


def test_the_verb_refuses_a_pattern_that_fits_no_cell(folder):
    matrix_of(folder)
    result = CliRunner().invoke(app, ["matrix", str(folder / "matrix.yaml"), "--dry-run", "--only", "zzz*"])
    assert isinstance(result.exception, UserError)
    assert (result.output, "letters-mlp-seed0" in str(result.exception)) == ("", True)

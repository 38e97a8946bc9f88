"""Every recipe that comes along resolves, and those of published results say what was published."""

from pathlib import Path

import pytest
import yaml

from sewkit.config import PUBLISHED, Dropout
from sewkit.model import build_model
from sewkit.train.recipe import FinetuneRecipe, PretrainRecipe, RecipeError, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
PRETRAIN = sorted([*RECIPES.glob("pretrain/*.yaml"), *RECIPES.glob("small/pretrain-*.yaml")])
FINETUNE = sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("finetune/*.yaml"), *RECIPES.glob("small/finetune-*.yaml")])

FINETUNE_PUBLISHED = {
    # updates, learning rate, updates with the head alone, time and channel masks, layerdrop, seconds of an update
    "10m": (13_000, 5e-5, 10_000, 0.65, 0.25, 0.1, 1600),
    "1h": (13_000, 5e-5, 10_000, 0.65, 0.25, 0.1, 1600),
    "10h": (20_000, 5e-5, 10_000, 0.65, 0.5, 0.05, 1600),
    "100h": (80_000, 3e-5, 0, 0.65, 0.5, 0.1, 1600),
    "960h": (320_000, 1e-4, 0, 0.5, 0.1, 0.1, 1600),
    "vox-10m": (13_000, 1e-4, 10_000, 0.65, 0.25, 0.1, 1600),
    "vox-1h": (13_000, 3e-4, 10_000, 0.75, 0.25, 0.1, 1600),
    "vox-10h": (20_000, 1e-4, 10_000, 0.75, 0.25, 0.1, 1600),
    "vox-100h": (80_000, 3e-5, 10_000, 0.5, 0.5, 0.1, 1600),
    "vox-960h": (320_000, 3e-5, 10_000, 0.5, 0.25, 0.1, 1920),
    "stable-10m": (13_000, 1e-5, 0, 0.65, 0.25, 0.1, 1600),
    "stable-1h": (13_000, 1e-5, 0, 0.65, 0.25, 0.1, 1600),
    "stable-10h": (20_000, 1e-5, 0, 0.65, 0.5, 0.05, 1600),
    "stable-100h": (80_000, 3e-5, 0, 0.65, 0.5, 0.1, 1600),
}
SEW_SIZES = ["sew-tiny", "sew-small", "sew-mid", "sew-d-tiny", "sew-d-small", "sew-d-mid", "sew-d-mid-k127"]
SEW_SIZES += ["sew-d-base", "sew-d-base-plus"]
SEW_RUNS = [(size, 100_000) for size in SEW_SIZES]
SEW_RUNS += [(size, 400_000) for size in ("sew-d-mid", "sew-d-mid-k127", "sew-d-base-plus")]
POLYNOMIAL = {0: 0.0, 16_000: 2.5e-4, 32_000: 5e-4, 100_000: 4.076e-4, 200_000: 2.717e-4, 399_999: 1.359e-9}
"""fairseq's learning rates in a pre-training of base."""


def pretraining(name):
    return load_recipe(PretrainRecipe, RECIPES / "pretrain" / f"{name}.yaml")


@pytest.mark.parametrize("path", PRETRAIN, ids=lambda path: path.stem)
def test_a_pretraining_recipe_resolves_and_its_model_can_be_built(path):
    recipe = load_recipe(PretrainRecipe, path)
    assert recipe.model is not None
    assert recipe.dev
    assert recipe.device_seconds <= recipe.batch_seconds
    build_model(recipe.model.replace(num_layers=min(recipe.model.num_layers, 1)))


@pytest.mark.parametrize("path", FINETUNE, ids=lambda path: path.stem)
def test_a_fine_tuning_recipe_resolves(path):
    recipe = load_recipe(FinetuneRecipe, path)
    assert recipe.dev
    whole = [stage for stage in recipe.stages if stage.objective != "classify"]  # there a head may learn alone
    assert all(stage.num_updates > stage.freeze_updates for stage in whole)


def test_the_recipe_in_the_documentation_resolves(tmp_path):
    text = (RECIPES.parent / "docs" / "training.md").read_text()
    path = tmp_path / "recipe.yaml"
    path.write_text(text.split("```yaml\n")[1].split("```")[0])
    assert load_recipe(FinetuneRecipe, path).label_column == "emotion"


def test_no_recipe_is_left_out():
    named = {*PRETRAIN, *FINETUNE, *RECIPES.glob("small/matrix*.yaml")}
    assert set(RECIPES.rglob("*.yaml")) == named
    assert {path.stem for path in RECIPES.glob("finetune/*.yaml")} == FINETUNE_PUBLISHED.keys()
    published = {f"{size}-{updates // 1000}k" for size, updates in SEW_RUNS} | {"w2v2-base", "w2v2-large-lv60"}
    assert {path.stem for path in RECIPES.glob("pretrain/*.yaml")} == published


def test_pretraining_of_base_is_the_published_one():
    recipe = pretraining("w2v2-base")
    assert recipe.model == PUBLISHED["w2v2-base"]
    assert recipe.model.dropout == Dropout(hidden=0.1, attention=0.1, activation=0, input=0.1, layerdrop=0.05)
    assert (recipe.model.masking.time_prob, recipe.model.masking.time_length) == (0.65, 10)
    assert recipe.batch_seconds * 16_000 == 64 * 1_400_000
    assert (recipe.crop.max_seconds * 16_000, recipe.crop.min_seconds * 16_000) == (250_000, 32_000)
    assert (recipe.betas, recipe.adam_eps, recipe.weight_decay, recipe.decay_all) == ((0.9, 0.98), 1e-6, 0.01, True)
    assert (recipe.contrastive.heads, recipe.contrastive.temperature) == ("linear", (2.0, 0.5, 0.999995))
    assert recipe.contrastive.feature_grad_scale == 0.1
    rates = {update: recipe.schedule.at(update, recipe.updates) for update in POLYNOMIAL}
    assert rates == pytest.approx(POLYNOMIAL, rel=1e-3)


@pytest.mark.parametrize(("size", "updates"), SEW_RUNS)
def test_pretraining_of_sew_is_base_with_mlp_heads_stopped_early(size, updates):
    base, recipe = pretraining("w2v2-base"), pretraining(f"{size}-{updates // 1000}k")
    assert recipe.updates == updates
    assert recipe.model == PUBLISHED[size]
    assert recipe.model.dropout.layerdrop == (0.2 if recipe.model.num_layers == 24 else 0.05)
    assert recipe.contrastive == base.contrastive.model_copy(update={"heads": "mlp", "mlp_size": 4096})
    rates = {update: recipe.schedule.at(update, recipe.updates) for update in POLYNOMIAL}
    assert rates == pytest.approx(POLYNOMIAL, rel=1e-3)
    same = ("batch_seconds", "crop", "betas", "adam_eps", "weight_decay", "decay_all", "train", "masking", "precision")
    assert all(getattr(recipe, name) == getattr(base, name) for name in same)


def test_pretraining_of_large_is_the_published_one():
    recipe = pretraining("w2v2-large-lv60")
    assert recipe.batch_seconds * 16_000 == 128 * 1_200_000
    assert recipe.crop.max_seconds * 16_000 == 320_000
    assert recipe.schedule.at(32_000, recipe.updates) == pytest.approx(3e-4)
    assert recipe.schedule.at(16_000, recipe.updates) == pytest.approx(1.5e-4)
    assert recipe.schedule.at(recipe.updates, recipe.updates) == 0
    assert (recipe.contrastive.final_dim, recipe.contrastive.vq_dim) == (768, 768)
    assert recipe.contrastive.temperature == (2.0, 0.1, 0.999995)
    assert (recipe.contrastive.feature_penalty_weight, recipe.contrastive.feature_grad_scale) == (0, 1)
    assert set(recipe.model.dropout.model_dump().values()) == {0.0}


@pytest.mark.parametrize("split", FINETUNE_PUBLISHED)
def test_fine_tuning_is_the_published_one(split):
    recipe = load_recipe(FinetuneRecipe, RECIPES / "finetune" / f"{split}.yaml")
    updates, learning_rate, freeze, time_prob, channel_prob, layerdrop, seconds = FINETUNE_PUBLISHED[split]
    (stage,) = recipe.stages
    assert (stage.utterances, stage.freeze_updates, stage.batch_seconds) == (updates, freeze, seconds)
    assert (stage.masking.time_prob, stage.masking.time_length) == (time_prob, 10)
    assert (stage.masking.channel_prob, stage.masking.channel_length) == (channel_prob, 64)
    kept = {"hidden": 0.1, "attention": 0.1, "input": 0.1} if split.startswith("stable") else {"activation": 0.1}
    none = {"hidden": 0, "attention": 0, "input": 0, "activation": 0, "final": 0}
    assert recipe.dropout == Dropout(**{**none, **kept, "layerdrop": layerdrop})
    assert (recipe.betas, recipe.adam_eps, recipe.weight_decay, recipe.clip_norm) == ((0.9, 0.98), 1e-8, 0, 0)
    assert not stage.train_extractor
    # a hundredth at first, the peak from a tenth to a half, a twentieth at the end
    rates = [stage.schedule.at(update, updates) for update in (0, updates // 10, updates // 2, updates)]
    assert rates == pytest.approx([learning_rate / 100, learning_rate, learning_rate, learning_rate / 20])


# ---- extends -------------------------------------------------------------------------------------------------------

BASE = {
    "data_root": "somewhere",
    "model": "sew-tiny",
    "train": [{"manifest": "a.jsonl"}, {"manifest": "b.jsonl"}],
    "dropout": {"hidden": 0.2, "input": 0.3},
    "stages": [
        {"name": "one", "objective": "ctc", "utterances": 5, "schedule": {"learning_rate": 1e-3}},
        {"name": "two", "objective": "ctc", "utterances": 6, "schedule": {"learning_rate": 2e-3, "hold": 0.1}},
    ],
}


def write(path, values):
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def test_what_a_recipe_says_is_laid_over_what_it_extends(tmp_path):
    write(tmp_path / "base.yaml", BASE)
    write(tmp_path / "between.yaml", {"extends": "base.yaml", "train": [{"manifest": "c.jsonl"}], "seed": 3})
    changes = {"dropout": {"input": 0.0}, "stages": {1: {"schedule": {"learning_rate": 5e-3}}}}
    path = write(tmp_path / "below" / "last.yaml", {"extends": "../between.yaml", **changes})
    recipe = load_recipe(FinetuneRecipe, path, ["stages.0.utterances=7"])
    assert (recipe.seed, recipe.data_root, recipe.folder) == (3, Path("somewhere"), tmp_path / "below")
    assert [source.manifest for source in recipe.train] == [Path("c.jsonl")]
    assert (recipe.dropout.hidden, recipe.dropout.input) == (0.2, 0.0)
    assert [stage.num_updates for stage in recipe.stages] == [7, 6]
    assert (recipe.stages[1].schedule.learning_rate, recipe.stages[1].schedule.hold) == (5e-3, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extends": "last.yaml"}, "last.yaml: extends itself"),
        ({"extends": "none.yaml"}, "none.yaml: cannot be read"),
        ({"extends": 3}, "last.yaml: extends: expected the path"),
        ({"extends": "base.yaml", "stages": {2: {"name": "x"}}}, "last.yaml: changes element 2 of a list of base.yaml"),
        ({"extends": "base.yaml", "dropout": {"inputs": 0}}, "last.yaml: dropout.inputs: no such field"),
    ],
)
def test_what_cannot_be_extended_is_one_line_that_names_the_file(tmp_path, changes, message):
    write(tmp_path / "base.yaml", BASE)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(FinetuneRecipe, write(tmp_path / "last.yaml", changes))
    assert "\n" not in str(caught.value)


def test_a_circle_is_refused(tmp_path):
    write(tmp_path / "a.yaml", {"extends": "b.yaml"})
    with pytest.raises(RecipeError, match=r"a\.yaml: extends itself, by way of .*a\.yaml, .*b\.yaml"):
        load_recipe(FinetuneRecipe, write(tmp_path / "b.yaml", {"extends": "a.yaml"}).with_name("a.yaml"))

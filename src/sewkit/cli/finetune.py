"""`sewkit finetune`: train a model to transcribe or to classify, as a recipe says."""

from __future__ import annotations

from sewkit.cli.options import DryRun, Overrides, Recipe, Resume, RunFolder, say_where_the_model_is


def finetune(
    config: Recipe, output: RunFolder, overrides: Overrides = None, resume: Resume = False, dry_run: DryRun = False
) -> None:
    """Fine-tune (or train from random weights) to letters or classes. A killed run goes on with --resume.

    Example:  sewkit finetune --config recipes/bundled.yaml --output runs/bundled --set data_root=data
    """
    from sewkit.train.finetune import plan, run
    from sewkit.train.plan import print_plan
    from sewkit.train.recipe import FinetuneRecipe, load_recipe

    recipe = load_recipe(FinetuneRecipe, config, overrides or [])
    if dry_run:
        print_plan(plan(recipe, output))
    else:
        run(recipe, output, resume=resume)
        say_where_the_model_is(output)

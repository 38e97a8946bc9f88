"""`sewkit finetune`: train a model to transcribe or to classify, as a recipe says."""

from __future__ import annotations

from sewkit.cli.options import DryRun, Overrides, Recipe, Resume, RunFolder


def finetune(
    config: Recipe, output: RunFolder, overrides: Overrides = None, resume: Resume = False, dry_run: DryRun = False
) -> None:
    """Fine-tune (or train from random weights) to letters or classes. A killed run goes on with --resume.

    Example:  sewkit finetune --config recipes/bundled.yaml --output runs/bundled --set data_root=data
    """
    from sewkit.train.finetune import build_stages, loop_settings, run, start_model, start_process
    from sewkit.train.plan import make_plan, print_plan
    from sewkit.train.recipe import FinetuneRecipe, load_recipe
    from sewkit.train.summary import hours_of

    recipe = load_recipe(FinetuneRecipe, config, overrides or [])
    if not dry_run:
        run(recipe, output, resume=resume)
        return
    device = start_process(recipe)
    stages = build_stages(recipe, start_model(recipe), device)
    print_plan(make_plan(stages, loop_settings(recipe, output, device, None), hours_of(recipe)))

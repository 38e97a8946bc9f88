"""`sewkit pretrain`: train an encoder on recordings without labels, as a recipe says."""

from __future__ import annotations

from sewkit.cli.options import DryRun, Overrides, Recipe, Resume, RunFolder, say_where_the_model_is


def pretrain(
    config: Recipe, output: RunFolder, overrides: Overrides = None, resume: Resume = False, dry_run: DryRun = False
) -> None:
    """Pre-train an encoder with wav2vec 2.0's contrastive loss. A killed run goes on with --resume and loses nothing.

    OUTPUT/model is what `sewkit finetune` starts from (`init`). On several GPUs or machines start it with torchrun.

    Example:  sewkit pretrain --config recipes/small/pretrain-sew.yaml --output runs/small/sew
    """
    from sewkit.train.plan import print_plan
    from sewkit.train.pretrain import plan, run
    from sewkit.train.recipe import PretrainRecipe, load_recipe

    recipe = load_recipe(PretrainRecipe, config, overrides or [])
    if dry_run:
        print_plan(plan(recipe, output))
    else:
        run(recipe, output, resume=resume)
        say_where_the_model_is(output)

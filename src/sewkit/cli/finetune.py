"""`sewkit finetune`: train a model to transcribe, as a recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def finetune(
    config: Annotated[Path, typer.Option("--config", "-c", help="Recipe, a YAML file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: log, checkpoints, final model.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change one setting of the recipe, such as --set data_root=../data.", metavar="KEY=VALUE"
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run left off.")] = False,
) -> None:
    """Fine-tune (or train from random weights) with CTC. A killed run goes on with --resume and loses nothing.

    Example:  sewkit finetune --config recipes/bundled.yaml --output runs/bundled --set data_root=data
    """
    from sewkit.train.finetune import run
    from sewkit.train.recipe import FinetuneRecipe, load_recipe

    run(load_recipe(FinetuneRecipe, config, overrides or []), output, resume=resume)

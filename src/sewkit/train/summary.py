"""What a finished run leaves beside its model: a model card and a picture of the log."""

from pathlib import Path

from sewkit.model import SpeechModel
from sewkit.train.card import Card, Data, last_results, write_card
from sewkit.train.recipe import RunRecipe, to_yaml
from sewkit.train.report import write_report
from sewkit.train.rows import open_source


def summarize(recipe: RunRecipe, model: SpeechModel, output: Path) -> None:
    """Write README.md into `output/model` and report.png into `output`."""
    card = Card(
        name=output.name,
        config=model.config,
        num_parameters=model.num_parameters(),
        data=tuple(Data(name=name, hours=hours) for name, hours in hours_by_source(recipe).items()),
        recipe=to_yaml(recipe),
        started_from=str(recipe.init) if recipe.init is not None else None,
        results=last_results(output),
    )
    write_card(output / "model", card)
    write_report(output)


def hours_of(recipe: RunRecipe) -> float:
    """Sound in the training data."""
    return sum(hours_by_source(recipe).values())


def hours_by_source(recipe: RunRecipe) -> dict[str, float]:
    """Hours of each source, by manifest, split and intents."""
    hours = {}
    for source in recipe.train:
        name = ", ".join([str(source.manifest), source.split, *source.intents])
        hours[name] = float(open_source(source, recipe.data_root).durations.sum()) / 3600
    return hours

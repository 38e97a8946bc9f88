"""The rows that a recipe names: of its training sources and of its dev sets."""

from collections.abc import Sequence
from pathlib import Path

from sewkit.data.manifest import Manifest
from sewkit.data.strings import Source
from sewkit.train.recipe import DevSet, RunRecipe


def read_rows(recipe: RunRecipe, sources: Sequence[Source] = ()) -> Manifest:
    """The training rows of these sources of a recipe, or of all."""
    return Manifest.join([open_source(source, recipe.data_root) for source in sources or recipe.train])


def open_source(source: Source, data_root: Path) -> Manifest:
    """The rows of one source."""
    path = data_root / source.manifest
    if source.intents:
        return Manifest.open(path, source.split, labelled=False, intent=source.intents)
    return Manifest.open(path, source.split, labelled=False)


def read_dev_path(recipe: RunRecipe, dev: DevSet) -> tuple[Path, Path | None]:
    """(the manifest of a dev set, what its paths are relative to if not to itself)."""
    if dev.beside_recipe:
        return recipe.folder / dev.manifest, recipe.data_root
    return recipe.data_root / dev.manifest, None

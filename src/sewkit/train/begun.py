"""What a run was begun with: it goes on with that recipe or not at all, so that its model card says what was done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sewkit.errors import UserError
from sewkit.train.recipe import ELSEWHERE, RunRecipe

MAY_CHANGE = ELSEWHERE | {
    *("compile", "checkpoint_activations", "device_seconds"),  # what fits the machine, as the number of processes does
    *("log_every", "validate_every", "validate_at", "checkpoint_seconds", "keep_checkpoints", "save_as"),
}
"""What of a recipe may differ when a run goes on: it moves no weight, but for rounding and the rows of a batch norm."""

MOST_NAMED = 6


def lasting(recipe: RunRecipe) -> dict[str, Any]:
    """What of a recipe holds from the first update to the last, as plain values, defaults included."""
    return recipe.model_dump(mode="json", exclude=MAY_CHANGE)


def check_same(begun: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Raise UserError if a run is to go on with another recipe; `begun` is empty in states that did not keep it yet."""
    found = differences(begun, now)
    if not found:
        return
    more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    raise UserError(
        f"{folder}: the run was begun with another recipe ({'; '.join(found[:MOST_NAMED])}{more}); "
        "resume with the recipe that it was begun with, or choose another output folder"
    )


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """["stages.0.utterances: 500, now 800", ...]; a field that only one of them has is of another version of sewkit."""
    if isinstance(before, dict) and isinstance(now, dict):
        pairs = [(key, before[key], now[key]) for key in before if key in now]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(str(number), old, new) for number, (old, new) in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [f"{name}: {_short(before)}, now {_short(now)}"]
    return [line for key, old, new in pairs for line in differences(old, new, f"{name}.{key}".lstrip("."))]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 or isinstance(value, str) else f"{len(value)} elements"

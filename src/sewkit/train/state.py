"""What a stopped run needs to go on: checkpoints written atomically, pruned, and read back with a way out.

Every random number of training is a function of (seed, stage, update) and of the rows, so the position stands for the
state of every generator and for the place in the data.
"""

import os
import warnings
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sewkit.errors import UserError

FORMAT = 2


@dataclass(kw_only=True)
class TrainState:
    """Position and weights of a run."""

    stage: int = 0
    update: int = 0
    """Updates done in this stage: the next one's batches, learning rate and seeds follow from it."""
    model: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    """Exponential moving average of the model's weights; empty where the recipe wants none."""
    num_averaged: int = 0
    """Updates in it."""
    heads: dict[str, Tensor] = field(default_factory=dict)
    """What the stage's objective has beside the model: predictor heads, quantiser; kept until the next stage begins."""
    average_heads: dict[str, Tensor] = field(default_factory=dict)
    """The moving average of those."""
    optimizer: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0
    """Updates left out because loss or gradient were not finite."""
    recipe: dict[str, Any] = field(default_factory=dict)
    """What the run was begun with, see `begun`; empty in states that were written before it was kept."""


def save_state(state: TrainState, path: Path) -> None:
    """Write under a temporary name, flush to disk, rename: a kill or a power cut leaves the old file or the new one.

    Raises OSError where the disk refuses, and leaves nothing behind.
    """
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **{f.name: getattr(state, f.name) for f in fields(state)}}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):  # torch's zip writer turns it into a RuntimeError
            raise error.__context__ from None
        raise
    _flush_names(path.parent)


def _flush_names(folder: Path) -> None:
    """Make a rename outlive a power failure, where folders can be flushed."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def load_state(path: Path) -> TrainState:
    """Read what `save_state` wrote; tensors and plain values only, no pickled code runs. Raises UserError."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable training state ({reason})") from error
    names = {f.name for f in fields(TrainState)}
    if (
        not isinstance(stored, dict)
        or stored.pop("format", None) != FORMAT
        or stored.keys() not in (names, names - {"recipe"})
    ):
        raise UserError(f"{path}: not a training state of this version; start again without --resume")
    return TrainState(**stored)


class Checkpoints:
    """The states of a run, `state-STAGE-UPDATE.pt` in its folder: the newest `keep` of them stay."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.damaged: list[Path] = []

    def paths(self) -> list[Path]:
        """Oldest first; names sort by stage and update."""
        return sorted(self.folder.glob("state-*.pt"))

    def save(self, state: TrainState) -> bool:
        """Set damaged files aside, write the state, then delete what is too old.

        A full disk is a warning and False: the run and the last good state live on.
        """
        self._set_aside()
        try:
            save_state(state, self.folder / f"state-{state.stage:02d}-{state.update:08d}.pt")
        except OSError as error:
            warnings.warn(
                f"{self.folder}: the state could not be written ({error.strerror or error}); "
                f"the last good one is {self._newest()}; make room on the disk",
                stacklevel=2,
            )
            return False
        self._prune()
        return True

    def load(self) -> TrainState | None:
        """The newest state that can be read, None if there is none at all; says so if that is not the newest file.

        Raises UserError if there are states and none can be read.
        """
        problems = []
        for path in reversed(self.paths()):
            try:
                state = load_state(path)
            except UserError as error:
                problems.append(str(error))
                self.damaged.append(path)
                continue
            if problems:
                warnings.warn(f"{'; '.join(problems)}; going on from {path.name}", stacklevel=2)
            return state
        if problems:
            raise UserError("; ".join(problems))
        return None

    def _set_aside(self) -> None:
        """Rename damaged files: they would count as the newest, and good ones would be pruned in their place."""
        for path in self.damaged:
            path.replace(path.with_name(path.name + ".damaged"))
        self.damaged = []

    def _prune(self) -> None:
        """Delete the oldest states, and what a kill in the middle of writing left."""
        for path in [*self.paths()[: -self.keep], *self.folder.glob("state-*.pt.partial")]:
            path.unlink(missing_ok=True)

    def _newest(self) -> str:
        good = [path for path in self.paths() if path not in self.damaged]
        return good[-1].name if good else "none yet"

"""Learning rates as functions of the update, equal to fairseq's after `step_update(update)`."""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Schedule(BaseModel):
    """How the learning rate moves over the updates of a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["tri_stage", "polynomial", "constant"] = "tri_stage"
    learning_rate: float
    warmup: float = 0.1
    """Share of the updates; for tri_stage and polynomial."""
    hold: float = 0.4
    final_scale: float = 0.05
    """tri_stage: the last learning rate as a share of the highest."""
    total_updates: int | None = Field(None, ge=1)
    """What the schedule is laid over, where a run ends before it (SEW's 100,000 of 400,000 updates)."""

    def at(self, update: int, num_updates: int) -> float:
        """The learning rate of an update, counted from 0, in a run of so many."""
        num_updates = self.total_updates or num_updates
        if self.kind == "tri_stage":
            return tri_stage(update, num_updates, self.learning_rate, self.warmup, self.hold, self.final_scale)
        if self.kind == "polynomial":
            return polynomial(update, num_updates, self.learning_rate, round(self.warmup * num_updates))
        return self.learning_rate


def tri_stage(
    update: int,
    num_updates: int,
    learning_rate: float,
    warmup: float = 0.1,
    hold: float = 0.4,
    final_scale: float = 0.05,
    initial_scale: float = 0.01,
) -> float:
    """Linear warm-up, hold, exponential decay to `final_scale`: wav2vec 2.0's fine-tuning."""
    num_warmup, num_hold = int(num_updates * warmup), int(num_updates * hold)
    num_decay = num_updates - num_warmup - num_hold
    if update < num_warmup:
        return learning_rate * (initial_scale + (1 - initial_scale) * update / num_warmup)
    if update < num_warmup + num_hold:
        return learning_rate
    if update >= num_updates:
        return learning_rate * final_scale
    return learning_rate * math.exp(math.log(final_scale) * (update - num_warmup - num_hold) / num_decay)


def polynomial(update: int, num_updates: int, learning_rate: float, num_warmup: int) -> float:
    """Linear warm-up, then linear decay to 0: pre-training."""
    if update < num_warmup:
        return learning_rate * update / num_warmup
    return learning_rate * max(0.0, (num_updates - update) / (num_updates - num_warmup))

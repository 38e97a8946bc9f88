"""Which of the waiting stretches of sound run next, and at which operating point: a pure rule, like the governor.

The most urgent one leads. Those that are to run at the same point and are about as long join it, the more urgent
first, as long as the batch stays within its size and the leader within its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sewkit.compute import Compute
from sewkit.serve.governor import Governor, Waiting

FILLED = 0.75
"""At least so much of a batch is sound, the rest padding."""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Entry(Generic[_Item]):
    """An item with what the rules know of it; one that is `alone` shares no batch."""

    item: _Item
    waiting: Waiting
    alone: bool = False


@dataclass(frozen=True)
class Batch(Generic[_Item]):
    """Items that run together at one point."""

    point: Compute
    items: list[_Item]
    sound: float
    """Seconds, with padding."""


def next_batch(
    entries: Sequence[Entry[_Item]], governor: Governor, batch_seconds: float, now: float
) -> Batch[_Item] | None:
    """The batch to run now; None where nothing waits. The governor chooses anew."""
    governor.choose(now, [entry.waiting for entry in entries])
    if not entries:
        return None
    in_order = sorted(entries, key=lambda entry: entry.waiting.deadline)
    leader = in_order[0]
    point = governor.point_for(leader.waiting)
    joined, longest, sound = [leader], leader.waiting.sound, leader.waiting.sound
    cost, time_left = governor.costs.of(point), leader.waiting.deadline - now
    for entry in () if leader.alone else in_order[1:]:
        if entry.alone or governor.point_for(entry.waiting) != point:
            continue
        padded = max(longest, entry.waiting.sound) * (len(joined) + 1)
        is_dense = sound + entry.waiting.sound >= FILLED * padded
        # A leader that is late anyway gains nothing by going alone, and the others would be late too.
        in_time = cost.seconds(padded) <= time_left or cost.seconds(leader.waiting.sound) > time_left
        if is_dense and in_time and padded <= batch_seconds:
            joined.append(entry)
            longest, sound = max(longest, entry.waiting.sound), sound + entry.waiting.sound
    return Batch(point, [entry.item for entry in joined], longest * len(joined))

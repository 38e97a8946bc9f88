"""A model's measured curve: what each operating point costs, how well it does, and which one a name stands for.

`sewkit sweep` measures it, and stores it in the model's folder; it is read and saved with the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sewkit.compute import NAMES, Compute, Refinement, operating_points
from sewkit.config import ModelConfig
from sewkit.errors import UserError
from sewkit.files import replacing

FILE_NAME = "operating_points.json"
FORMAT_VERSION = 1
BALANCED_LOSS = 1.05
"""How many errors `balanced` may make for one of the most accurate point."""


class _Measured(BaseModel):
    """Rates are fractions, with the ends of their intervals; clips ran one at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    point: str
    wer: float
    wer_low: float
    wer_high: float
    cer: float
    cer_low: float
    cer_high: float
    seconds_median: float = Field(gt=0)
    """Of a clip, from its samples to its words."""
    seconds_p95: float = Field(gt=0)
    real_time_factor: float = Field(gt=0)
    """Seconds of work for a second of sound, over all clips."""

    @property
    def compute(self) -> Compute:
        """The point, of two passes that of the first."""
        return Compute.parse(self.point)


class MeasuredPoint(_Measured):
    """One operating point."""

    macs_per_second: int
    """Multiply-accumulates for a second of sound, in a clip of mean length."""
    peak_memory_mib: float | None
    """The most that the process (on a GPU, its tensors) held during the longest clip; None where not known."""


class MeasuredPasses(_Measured):
    """A first pass at `point`, and what it was unsure of again at another one, see `sewkit.refine`."""

    second: str
    threshold: float
    margin: float
    heard_again: float
    """Share of the frames that the second pass heard, margins included."""

    @property
    def refinement(self) -> Refinement:
        """What to hand to `transcribe`."""
        return Refinement(self.threshold, Compute.parse(self.second), self.margin)


class Curve(BaseModel):
    """All operating points of a model, measured on the same clips in turn; in `points` the fastest stands first.

    Raises pydantic's ValidationError for fields that are missing, unknown or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = FORMAT_VERSION
    model: str
    data: dict[str, str]
    """SHA-256 of each manifest by its name."""
    num_clips: int
    num_missing: int
    """Recordings that could not be read, which are in no figure."""
    audio_seconds: float
    num_words: int
    normalizer: str
    interval: str
    """What the intervals are."""
    device: str
    dtype: str
    environment: dict[str, Any]
    """Hardware, versions and date."""
    points: tuple[MeasuredPoint, ...] = Field(min_length=1)
    two_passes: tuple[MeasuredPasses, ...] = ()
    """Thresholds that were tried, on the same clips in turn with the points."""

    @field_validator("points")
    @classmethod
    def _in_order(cls, points: tuple[MeasuredPoint, ...]) -> tuple[MeasuredPoint, ...]:
        return tuple(sorted(points, key=lambda point: (point.seconds_median, point.wer)))

    @cached_property
    def front(self) -> tuple[MeasuredPoint, ...]:
        """The points to which none is preferable, neither slower nor with more errors; fastest first."""
        return pareto_front(self.points)

    @cached_property
    def names(self) -> dict[str, Compute]:
        """What the names stand for.

        `full` computes the most, as a call without a point does. `fast` is the fastest. `balanced` is the fastest
        that makes at most a twentieth more errors than the most accurate one. (Not the fastest whose interval holds the
        lowest rate: the fewer data, the more that would give away.)
        """
        most = BALANCED_LOSS * min(point.wer for point in self.points)
        balanced = next(point for point in self.points if point.wer <= most)
        full = max(self.points, key=lambda point: point.macs_per_second)
        return dict(zip(NAMES, (full.compute, balanced.compute, self.front[0].compute), strict=True))

    def refined(self, first: Compute | None = None) -> MeasuredPasses | None:
        """The two passes to use, with a first pass at `first` if that is given; None where none were measured.

        The fastest, over all clips, that make no more errors than their second point alone; if all make more, those
        with fewest. (The clip of median time is often one of which nothing is heard again.)
        """
        measured = [one for one in self.two_passes if first is None or one.compute == first]
        alone = {point.point: point.wer for point in self.points}
        as_good = [one for one in measured if one.wer <= alone[one.second]]
        if as_good:
            return min(as_good, key=lambda one: one.real_time_factor)
        return min(measured, key=lambda one: (one.wer, one.real_time_factor), default=None)

    def beats_points(self, passes: MeasuredPasses) -> bool:
        """Whether every single point is slower over all clips, or makes more errors."""
        return not any(p.real_time_factor <= passes.real_time_factor and p.wer <= passes.wer for p in self.points)

    def check(self, config: ModelConfig, source: object) -> None:
        """Raises UserError, which names `source`, unless it is a curve of such a model."""
        found, expected = {point.point for point in self.points}, {str(point) for point in operating_points(config)}
        if found != expected or len(self.points) != len(expected):
            raise UserError(
                f"{source}: measured at {len(self.points)} operating points that are not this model's "
                f"{len(expected)}; measure it with sewkit sweep --store, or delete the file"
            )
        passes = {point for one in self.two_passes for point in (one.point, one.second)}
        if not passes <= expected:
            raise UserError(
                f"{source}: two passes at {min(passes - expected)}, which is not a point of this model; measure again "
                "with sewkit sweep --refine --store, or delete the file"
            )

    def write(self, folder: Path) -> None:
        """Store it in a model's folder. Raises UserError where that fails."""
        with replacing(folder / FILE_NAME) as draft:
            draft.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def pareto_front(points: Iterable[MeasuredPoint]) -> tuple[MeasuredPoint, ...]:
    """Of points of which the fastest stands first, those with fewer errors than any before them."""
    front: list[MeasuredPoint] = []
    for point in points:
        if not front or point.wer < front[-1].wer:
            front.append(point)
    return tuple(front)


def read_curve(folder: Path, config: ModelConfig) -> Curve | None:
    """The curve in a model's folder, None where there is none. Raises UserError for a file that is not its curve."""
    path = folder / FILE_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); measure again with sewkit sweep --store") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path}: format version {version}, this sewkit reads up to {FORMAT_VERSION}; upgrade sewkit")
    try:
        curve = Curve.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "file"
        raise UserError(
            f"{path}: {place}: {first['msg']}; measure again with sewkit sweep --store, or delete it"
        ) from error
    curve.check(config, path)
    return curve

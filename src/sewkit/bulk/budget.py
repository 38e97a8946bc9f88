"""When a job has to be done: a moment, or hours of machines that all its runs share."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from sewkit.errors import UserError


@dataclass(frozen=True)
class Budget:
    """At most one of the two. `began` is when the job's program started, Unix time."""

    began: float
    hours: float | None = None
    """Of machines: on three machines, an hour spends three."""
    finish_by: float | None = None
    """Unix time."""

    @property
    def is_set(self) -> bool:
        """Whether there is one."""
        return self.hours is not None or self.finish_by is not None

    def deadline(self, spent_hours: float, num_machines: int) -> float | None:
        """Unix time at which this run has to be done; earlier runs spent so many machine hours."""
        if self.hours is not None:
            return self.began + max(self.hours - spent_hours, 0.0) / num_machines * 3600
        return self.finish_by


def parse_time(text: str, now: datetime | None = None) -> float:
    """Unix time of "18:30" (the next one), "2030-01-31T06:00", or "+90m", "+2h", "+45s" from now.

    Times without a zone are local. Raises UserError for anything else, and for moments that are past.
    """
    now = now or datetime.now()
    try:
        moment = _moment(text, now).timestamp()
    except (ValueError, OverflowError) as error:
        expected = "expected a time such as 18:30, 2030-01-31T06:00 or +90m"
        raise UserError(f"--finish-by {text}: {expected}") from error
    if moment <= now.timestamp():
        raise UserError(f"--finish-by {text}: is past; expected a time to come")
    return moment


def _moment(text: str, now: datetime) -> datetime:
    """Raises ValueError or OverflowError for what is no moment."""
    if match := re.fullmatch(r"\+(\d+(?:\.\d+)?)([smhd])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[match[2]]
        return now + timedelta(**{unit: float(match[1])})
    if match := re.fullmatch(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", text):
        return _next(now, *(int(part or 0) for part in match.groups()))
    return datetime.fromisoformat(text)


def _next(now: datetime, hour: int, minute: int, second: int) -> datetime:
    today = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    return today if today > now else today + timedelta(days=1)


def left(deadline: float) -> float:
    """Seconds until then, negative when it is past."""
    return deadline - time.time()

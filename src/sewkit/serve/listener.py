"""A live signal that is heard without holding up the event loop, and begins anew as often as is wanted.

Its streams are the library's. Each is fed in a thread, and its windows and segments go to the server's `Hearing`, which
lets them take turns with the rest of the server's work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import anyio
import anyio.to_thread
import numpy as np

from sewkit.compute import Compute
from sewkit.errors import UserError
from sewkit.recognizer import ComputeRequest, Recognizer
from sewkit.segments import Segmentation
from sewkit.streaming import Event, Final, Stream

PIECE_SECONDS = 1.0
"""A longer block is heard in pieces, so that its first words do not wait for its last."""


class Hearing(Protocol):
    """What live sessions need of a server."""

    recognizer: Recognizer
    """Its `runtime` may be called from many threads, and makes them wait their turn."""

    def point_for_finals(self, request: Compute | None) -> Compute:
        """The best operating point that can be afforded now, or the one that the client asked for."""


@dataclass(frozen=True)
class Heard:
    """An event of a stream, its times counted from the session's start, and the point at which finals ran."""

    event: Event
    compute: Compute


class Listener:
    """The live sound of a session: one stream after the other, each fed in a thread."""

    def __init__(self, hearing: Hearing, threads: anyio.CapacityLimiter, sample_rate: int):
        self.compute: Compute | None = None
        """What finals should run at; None leaves it to the server."""
        self.last_point = hearing.point_for_finals(None)
        """At which finals were last to run."""
        self._hearing, self._threads = hearing, threads
        self._sample_rate, self._segmentation = sample_rate, Segmentation()
        self._seconds_before = 0.0
        self._num_samples = 0
        self._stream = self._open()

    @property
    def sample_rate(self) -> int:
        """Of the blocks, in Hz."""
        return self._sample_rate

    @property
    def seconds(self) -> float:
        """Sound taken since the session began."""
        return self._seconds_before + self.seconds_open

    @property
    def seconds_open(self) -> float:
        """Sound taken since the last `finish` or `clear`."""
        return self._num_samples / self._sample_rate

    def resolve(self, request: ComputeRequest) -> Compute | None:
        """The operating point that a client names; None, or "auto", leaves it to the server. Raises UserError."""
        return None if request in (None, "auto") else self._hearing.recognizer.resolve(request)

    def configure(self, *, sample_rate: int | None = None, pause: float | None = None) -> None:
        """Change the rate of the blocks, and the pause that ends a segment, in seconds, for the sound to come.

        Raises UserError for values that cannot be, and while there is sound that is not finished.
        """
        before = self._sample_rate, self._segmentation
        rate = before[0] if sample_rate is None else sample_rate
        segmentation = before[1] if pause is None else replace(before[1], pause=pause)
        if (rate, segmentation) == before:
            return
        if self._num_samples:
            raise UserError("the sound is still open; change its rate or pauses before it begins, or behind a commit")
        try:
            self._sample_rate, self._segmentation = rate, segmentation
            self._stream = self._open()
        except UserError:
            self._sample_rate, self._segmentation = before
            raise

    async def feed(self, samples: np.ndarray) -> AsyncIterator[Heard]:
        """Take samples, (num_samples,) int16 or float32; gives what is heard as soon as it is. Raises UserError."""
        step = int(PIECE_SECONDS * self._sample_rate)
        for first in range(0, len(samples), step):
            piece = samples[first : first + step]
            self._num_samples += len(piece)
            self._stream.compute = self.last_point = self._hearing.point_for_finals(self.compute)
            for event in await self._in_thread(self._stream.feed, piece):
                yield self._heard(event)

    async def finish(self) -> list[Heard]:
        """The words still open; what comes next is new sound."""
        self._stream.compute = self.last_point = self._hearing.point_for_finals(self.compute)
        heard = [self._heard(event) for event in await self._in_thread(self._stream.finish)]
        self.clear()
        return heard

    def clear(self) -> None:
        """Forget the sound that is still open."""
        self._seconds_before, self._num_samples = self.seconds, 0
        self._stream = self._open()

    def _open(self) -> Stream:
        return self._hearing.recognizer.stream(sample_rate=self._sample_rate, segmentation=self._segmentation)

    async def _in_thread(self, work: Callable[..., Sequence[Event]], *args: Any) -> Sequence[Event]:
        return await anyio.to_thread.run_sync(work, *args, limiter=self._threads)

    def _heard(self, event: Event) -> Heard:
        return Heard(_later(event, self._seconds_before), self.last_point)


def _later(event: Event, seconds: float) -> Event:
    """The same event, `seconds` later."""
    words = [
        replace(word, start=round(word.start + seconds, 3), end=round(word.end + seconds, 3)) for word in event.words
    ]
    if isinstance(event, Final):
        return replace(event, words=words, start=event.start + seconds, end=event.end + seconds)
    return replace(event, words=words)


class Pcm16:
    """Little-endian 16-bit samples from bytes that may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> np.ndarray:
        """Bytes -> the whole samples that they complete, (num_samples,) int16."""
        data = self._rest + data
        whole = len(data) // 2 * 2
        self._rest = data[whole:]
        return np.frombuffer(data[:whole], "<i2").astype(np.int16)

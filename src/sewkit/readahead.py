"""Recordings read by threads ahead of the model; what they hold comes in the order of the sources.

libsndfile and soxr work without the interpreter's lock, so files are decoded and resampled while the model runs. A task
reads a lot, at most two chunks, and never waits for anything: memory is bounded by the number of recordings ahead,
whatever their length, and no thread is left behind when the caller stops early.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeAlias

import numpy as np

from sewkit.audio import AudioSource, source_name
from sewkit.chunks import ChunkPlan
from sewkit.pieces import Kept, Piece, Recording

RECORDINGS_AHEAD = 8
"""Begun before they are asked for."""
LOT = 2
"""Chunks read by one task, so that a recording of one chunk is read to its end by its first."""
_FOR_THREADS = (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray)


Reading: TypeAlias = Generator[tuple[Recording[Kept], Iterator[list[Piece[Kept]]]], None, None]


def read_ahead(sources: Iterable[AudioSource], plan: ChunkPlan, threads: int) -> Reading[Kept]:
    """Each recording with its chunks in lots, which are to be taken before the next recording is.

    The caller's thread iterates over `sources` and reads file objects, in their turn: they may be one and the same, or
    a pipe that keeps its reader waiting. What is wrong with a recording is noted in it; any other exception is raised
    in its place. Closing the generator ends the threads.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sewkit-read")
    ahead: deque[_Ahead[Kept]] = deque()
    try:
        for number, source in enumerate(sources):
            ahead.append(_Ahead(Recording(number, source_name(source)), source, plan, pool))
            if len(ahead) > RECORDINGS_AHEAD:
                yield ahead[0].recording, ahead[0].lots()
                ahead.popleft()
        while ahead:
            yield ahead[0].recording, ahead[0].lots()
            ahead.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
        for reading in ahead:
            reading.pieces.close()


class _Ahead(Generic[Kept]):
    """A recording, one lot of which is read before it is asked for."""

    def __init__(self, recording: Recording[Kept], source: AudioSource, plan: ChunkPlan, pool: ThreadPoolExecutor):
        self.recording = recording
        self.pieces = recording.read(source, plan)
        self._pool = pool if isinstance(source, _FOR_THREADS) else None
        self._begun = self._begin()

    def lots(self) -> Iterator[list[Piece[Kept]]]:
        """The chunks in lots, the last of them not full."""
        while True:
            lot = self._read() if self._begun is None else self._begun.result()
            is_last = len(lot) < LOT
            if not is_last:
                self._begun = self._begin()
            yield lot
            if is_last:
                return

    def _begin(self) -> Future[list[Piece[Kept]]] | None:
        return None if self._pool is None else self._pool.submit(self._read)

    def _read(self) -> list[Piece[Kept]]:
        return list(islice(self.pieces, LOT))

"""Recordings through a model with no core idle: threads read ahead, batches run side by side, results come in order.

    read_ahead (threads)  ->  a lookahead of chunks, sorted into batches of like length
        ->  Workers (threads that run the model)  ->  what is kept of each chunk  ->  results in order

The caller's thread moves things along, and decodes, while the workers run. Memory is bounded; closing the generator
ends all threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch

from sewkit.audio import AudioError, AudioSource
from sewkit.pieces import Kept, Piece, Recording, Result, Task
from sewkit.readahead import Reading, read_ahead
from sewkit.runtime import batches_by_size

LOOKAHEAD_BATCHES = 8
"""Batches' worth of sound read ahead, so that clips of like length share a batch; at least two for each worker."""
PADDING = 1 / 8
"""Of a batch's sound, added to a clip at most. A call on a CPU costs as much as a second of sound, for the weights come
from memory: a clip that needs more padding than that does better by itself."""
READERS = 2
"""Threads that read; decoding takes a few hundredths of the time of a model."""


@dataclass(frozen=True)
class Batching:
    """Samples that share a batch, padding included, and how many batches run side by side.

    Side by side on a CPU each batch has its share of the threads: cores then never wait for each other, and decoding
    does not keep them waiting either.
    """

    max_samples: int
    workers: int = 1

    @property
    def lookahead(self) -> int:
        """Samples among which clips of like length are looked for."""
        return max(LOOKAHEAD_BATCHES, 2 * self.workers) * self.max_samples


def outcomes(
    sources: Iterable[AudioSource], task: Task[Kept, Result], batching: Batching, on_done: Callable[[Piece[Kept]], None]
) -> Iterator[Result | AudioError]:
    """What each recording becomes, or why it could not be read, in order. `on_done` hears of each chunk."""
    recordings: deque[Recording[Kept]] = deque()
    waiting: list[Piece[Kept]] = []

    def done() -> Iterator[Result | AudioError]:
        while recordings and recordings[0].is_done():
            yield task.outcome(recordings.popleft())

    reading: Reading[Kept] = read_ahead(sources, task.plan, READERS)
    with Workers(task, batching, on_done) as workers, closing(reading):
        for recording, lots in reading:
            recordings.append(recording)
            for lot in lots:
                waiting += lot
                if sum(len(piece.chunk.samples) for piece in waiting) >= batching.lookahead:
                    for _ in workers.drain(batching.workers):
                        yield from done()
                    workers.begin(waiting)
                    waiting = []
            yield from done()
        for _ in workers.finish(waiting):
            yield from done()
        yield from done()


class Workers(Generic[Kept]):
    """Threads that run batches of chunks. What they give is kept in the caller's thread, in which all methods run."""

    def __init__(self, task: Task[Kept, Result], batching: Batching, on_done: Callable[[Piece[Kept]], None]):
        self._task = task
        self._batching = batching
        self._on_done = on_done
        self._threads = torch.get_num_threads()
        self._share = max(1, self._threads // batching.workers)
        self._pool = ThreadPoolExecutor(batching.workers, thread_name_prefix="sewkit-model")
        self._running: deque[tuple[list[Piece[Kept]], Future[list[np.ndarray]]]] = deque()

    def __enter__(self) -> Workers[Kept]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._take_all_threads()

    def begin(self, pieces: list[Piece[Kept]]) -> None:
        """Have them run in batches of like length, the longest first."""
        for batch in self._batches(pieces):
            self._submit(batch)

    def drain(self, left: int) -> Iterator[None]:
        """Until no more than `left` batches are on their way; pauses after each."""
        while len(self._running) > left:
            batch, outputs = self._running.popleft()
            self._keep(batch, outputs.result())
            yield

    def finish(self, pieces: list[Piece[Kept]]) -> Iterator[None]:
        """All that is on its way and these, the last; pauses after each batch.

        Batches that are too few to give each worker one run here, one after the other with all threads.
        """
        batches, workers = self._batches(pieces), self._batching.workers
        shared = len(batches) // workers * workers if self._running or len(batches) > 1 else 0
        for batch in batches[:shared]:
            self._submit(batch)
        yield from self.drain(0)
        self._take_all_threads()
        for batch in batches[shared:]:
            self._keep(batch, self._run(batch))
            yield

    def _batches(self, pieces: list[Piece[Kept]]) -> list[list[Piece[Kept]]]:
        sizes, largest = [len(piece.chunk.samples) for piece in pieces], self._batching.max_samples
        return [[pieces[index] for index in batch] for batch in batches_by_size(sizes, largest, PADDING * largest)]

    def _submit(self, batch: list[Piece[Kept]]) -> None:
        self._running.append((batch, self._pool.submit(self._run_with_share, batch)))

    def _run_with_share(self, batch: list[Piece[Kept]]) -> list[np.ndarray]:
        # The number belongs to the calling thread in PyTorch, but to the process in its matrix library: each batch
        # sets it again, should another have changed it.
        if self._share != self._threads:
            torch.set_num_threads(self._share)
        return self._run(batch)

    def _take_all_threads(self) -> None:
        if self._share != self._threads:
            torch.set_num_threads(self._threads)

    def _run(self, batch: list[Piece[Kept]]) -> list[np.ndarray]:
        return self._task.run([piece.chunk.samples for piece in batch])

    def _keep(self, batch: list[Piece[Kept]], outputs: list[np.ndarray]) -> None:
        for piece, output in zip(batch, outputs, strict=True):
            piece.recording.kept[piece.index] = self._task.keep(piece, output)
            self._on_done(piece)

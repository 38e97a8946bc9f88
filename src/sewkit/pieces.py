"""Recordings in pieces: what is on its way through the model, what is kept of each chunk, how neighbours are joined."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from sewkit import chunks
from sewkit.audio import SAMPLE_RATE, AudioError, AudioSource, stream_audio
from sewkit.decode.decoder import DecodingState

Kept = TypeVar("Kept")
"""What is kept of a chunk until all chunks of its recording are there."""
Result = TypeVar("Result")
"""What a recording becomes."""


def delivered(
    outcomes: Iterator[Result | AudioError], on_error: Callable[[AudioError], None] | None
) -> Iterator[Result]:
    """The results; errors go to `on_error`, or without it are raised. A generator is closed however this ends."""
    try:
        for outcome in outcomes:
            if not isinstance(outcome, AudioError):
                yield outcome
            elif on_error is not None:
                on_error(outcome)
            else:
                raise outcome
    finally:
        if isinstance(outcomes, Generator):
            outcomes.close()


@dataclass(frozen=True)
class Task(Generic[Kept, Result]):
    """What is done with recordings: how they are cut, run in batches, what is kept of a chunk, what they become."""

    plan: chunks.ChunkPlan
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    keep: Callable[[Piece[Kept], np.ndarray], Kept]
    finish: Callable[[Recording[Kept]], Result | AudioError]

    def outcome(self, recording: Recording[Kept]) -> Result | AudioError:
        """What a recording became, or why it could not be read."""
        return self.finish(recording) if recording.error is None else recording.error


@dataclass
class Recording(Generic[Kept]):
    """What is known of a recording while its chunks are on their way."""

    number: int  # in the order of the sources
    name: str
    num_samples: int = 0
    is_read: bool = False
    error: AudioError | None = None
    kept: list[Kept | None] = field(default_factory=list)

    def read(self, source: AudioSource, plan: chunks.ChunkPlan) -> Generator[Piece[Kept], None, None]:
        """The recording's chunks; an error on the way is noted and ends it."""
        try:
            for chunk in chunks.split(self._measured(stream_audio(source)), plan):
                self.kept.append(None)
                yield Piece(self, len(self.kept) - 1, chunk)
        except AudioError as error:
            self.error = error
        self.is_read = True

    def _measured(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, their samples counted."""
        for block in blocks:
            self.num_samples += len(block)
            yield block

    def is_done(self) -> bool:
        """Whether nothing of it is still on its way."""
        return self.error is not None or (self.is_read and all(kept is not None for kept in self.kept))

    def pieces(self) -> list[Kept]:
        """What was kept of each chunk, in order."""
        return [kept for kept in self.kept if kept is not None]

    @property
    def seconds(self) -> float:
        """Sound read so far."""
        return self.num_samples / SAMPLE_RATE


class Stitched:
    """Hands the logits of a recording's chunks, which come in any order, to its decoding in the order of the sound.

    Neighbours share `2 * reach` frames around the place where they meet. They are parted where the letters of both are
    farthest, so that a letter which one hears a little earlier is neither lost nor doubled.
    """

    def __init__(self, state: DecodingState, silent: frozenset[int], reach: int):
        self.state = state
        self._silent = list(silent)
        self._reach = reach
        self._waiting: dict[int, tuple[np.ndarray, bool]] = {}
        self._next = 0
        self._tail: np.ndarray | None = None

    def take(self, index: int, logits: np.ndarray, is_last: bool) -> None:
        """Those of the chunk with number `index`; decoded now, or when the chunks before it have come."""
        self._waiting[index] = logits, is_last
        while self._next in self._waiting:
            self._join(*self._waiting.pop(self._next))
            self._next += 1

    def _join(self, logits: np.ndarray, is_last: bool) -> None:
        if self._tail is not None:
            shared = min(len(self._tail), len(logits))
            seam = chunks.quiet_seam(self._holds_letter(self._tail[:shared]) | self._holds_letter(logits[:shared]))
            self.state.feed(self._tail[:seam])
            logits = logits[seam:]
        settled = len(logits) if is_last else len(logits) - 2 * self._reach
        self.state.feed(logits[:settled])
        self._tail = None if is_last else logits[settled:]

    def _holds_letter(self, logits: np.ndarray) -> np.ndarray:
        """(T, V) -> (T,) bool."""
        return ~np.isin(logits.argmax(1), self._silent)


@dataclass(frozen=True)
class Piece(Generic[Kept]):
    """The chunk with number `index` of a recording."""

    recording: Recording[Kept]
    index: int
    chunk: chunks.Chunk

    def new_seconds(self, hop: int) -> float:
        """Seconds of the recording that this chunk answers for."""
        end = len(self.chunk.samples) if self.chunk.keep_to is None else self.chunk.keep_to * hop
        return (end - self.chunk.keep_from * hop) / SAMPLE_RATE

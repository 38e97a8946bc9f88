"""Where a recording is cut into segments: in its pauses, by a rule that cannot tell how the sound arrived.

The model hears windows on a fixed grid. The frames of a window that have enough sound behind them are settled, and
whether they hold letters is all that the rule looks at: live sound in blocks of any size has the segments of a file.
Windows and cuts lie on multiples of 12 frames, like chunks.

A pause is a stretch of frames without a letter: silence (CTC's blank or the space between words) is nearly certain in
each of them. Here times are counted in frames; frame f begins at sample f * hop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sewkit.audio import SAMPLE_RATE
from sewkit.chunks import ALIGNMENT_HOPS, CHUNK_SECONDS
from sewkit.compute import Compute
from sewkit.errors import UserError
from sewkit.text import Alphabet


@dataclass(frozen=True)
class Segmentation:
    """How pauses are found and where they end a segment; in seconds, of which the grid takes whole steps of 0.24.

    window, hop, lookahead: every `hop` the model hears the last `window` of sound, and frames with `lookahead` behind
    them are settled. Sound is so heard window / hop times, at the operating point `compute`: a `Compute`, or as
    `Compute.parse` reads it, or the model's cheapest.
    pause: half of it is free of letters on either side of a cut. As much, and less than a step more, is kept before a
    segment's first letter; the rest of a longer silence is in no segment.
    shortest, longest: no segment is cut before `shortest`; without a pause it is cut by `longest`, where letters are
    farthest. letter: a frame counts as free of letters while they have less than this probability together.

    Raises UserError for values that do not fit together.
    """

    window: float = 2.88
    hop: float = 0.72
    lookahead: float = 0.48
    pause: float = 0.6
    shortest: float = 1.92
    longest: float = 19.2
    letter: float = 0.1
    compute: Compute | str | None = None

    def __post_init__(self) -> None:
        seconds = (self.window, self.hop, self.lookahead, self.pause, self.shortest, self.longest)
        fits = (
            min(seconds) > 0
            and self.hop + self.lookahead <= self.window <= CHUNK_SECONDS
            and self.shortest + self.pause < self.longest <= CHUNK_SECONDS
            and 0 < self.letter < 1
        )
        if not fits:
            raise UserError(
                f"{self}; expected positive seconds with hop + lookahead <= window <= {CHUNK_SECONDS:g}, "
                f"shortest + pause < longest <= {CHUNK_SECONDS:g}, and letter between 0 and 1"
            )


class Window(NamedTuple):
    """Frames [start, end) that are heard together; with them all frames before `settled` are settled."""

    start: int
    end: int
    settled: int


class Span(NamedTuple):
    """Frames [start, end) of a segment; an end of None is that of the recording."""

    start: int
    end: int | None


class Grid:
    """A segmentation in frames of `hop_samples` at 16 kHz."""

    def __init__(self, segmentation: Segmentation, hop_samples: int):
        frames_a_second = SAMPLE_RATE / hop_samples

        def whole_steps(seconds: float) -> int:
            return max(1, round(seconds * frames_a_second / ALIGNMENT_HOPS)) * ALIGNMENT_HOPS

        self.step = ALIGNMENT_HOPS
        self.hop, self.lookahead = whole_steps(segmentation.hop), whole_steps(segmentation.lookahead)
        self.length = max(whole_steps(segmentation.window), self.hop + self.lookahead)
        self.clearance = max(1, round(segmentation.pause / 2 * frames_a_second))
        self.shortest = whole_steps(segmentation.shortest)
        self.longest = max(whole_steps(segmentation.longest), self.shortest + 2 * self.clearance + 2 * self.step)

    def window(self, index: int) -> Window:
        """The window with number `index`; the first ones are shorter than the others."""
        end = (index + 1) * self.hop
        return Window(max(0, end - self.length), end, max(0, end - self.lookahead))

    def floor(self, frame: int) -> int:
        """The last place on the grid that is not behind a frame."""
        return frame // self.step * self.step


class Segmenter:
    """Which settled frames hold letters -> spans. Lots of any size give the same spans, each as soon as it is known."""

    def __init__(self, grid: Grid):
        self._grid = grid
        self._num_frames = 0
        self._cut = 0
        self._letters = np.zeros(0, np.int64)  # frames with letters from the last cut on

    @property
    def start(self) -> int:
        """The first frame that the segment now open can have; it moves along with silence."""
        first = int(self._letters[0]) if len(self._letters) else self._num_frames
        return max(self._cut, self._grid.floor(first - self._grid.clearance))

    def feed(self, holds_letter: np.ndarray) -> list[Span]:
        """Take the next frames, (T,) bool; gives the spans that have come to their end."""
        found = self._num_frames + np.flatnonzero(holds_letter)
        self._letters = np.concatenate([self._letters, found])
        self._num_frames += len(holds_letter)
        spans = []
        while (cut := self._next_cut()) is not None:
            spans.append(Span(self.start, cut))
            self._letters, self._cut = self._letters[self._letters >= cut], cut
        return spans

    def finish(self) -> list[Span]:
        """The last span, if there is a letter behind the last cut."""
        return [Span(self.start, None)] if len(self._letters) else []

    def _next_cut(self) -> int | None:
        """The first pause of the open segment; the best place, if it is as long as may be; None while neither."""
        if not len(self._letters):
            return None
        grid, start = self._grid, self.start
        earliest = max(start + grid.shortest, grid.floor(int(self._letters[0])) + grid.step)
        latest = start + grid.longest
        known = self._num_frames - grid.clearance  # beyond, letters that are still to come may be near
        places = np.arange(earliest, min(latest, known) + 1, grid.step)
        clearances = self._clearances(places)
        if len(pauses := places[clearances == grid.clearance]):
            return int(pauses[0])
        if known < latest:
            return None
        is_late = places >= start + grid.longest // 2  # a segment about to be cut in speech keeps what context it can
        places, clearances = places[is_late], clearances[is_late]
        return int(places[clearances == clearances.max()][-1])

    def _clearances(self, places: np.ndarray) -> np.ndarray:
        """Frames without a letter on either side of each place behind a letter, at most as many as a pause needs."""
        following = np.searchsorted(self._letters, places)
        letters = np.append(self._letters, self._num_frames)
        free = np.minimum(places - 1 - letters[following - 1], letters[following] - places)
        return np.minimum(free, self._grid.clearance)


def holds_letter(logits: np.ndarray, alphabet: Alphabet, probability: float) -> np.ndarray:
    """(T, V) logits -> (T,) bool, True where letters have at least this `probability` together."""
    is_letter = np.array([_is_letter(index, alphabet) for index in range(len(alphabet))])
    shares = np.exp(logits - logits.max(1, keepdims=True, initial=-np.inf))
    return shares[:, is_letter].sum(1) >= probability * shares.sum(1)


def _is_letter(index: int, alphabet: Alphabet) -> bool:
    token = alphabet.tokens[index]
    return index not in alphabet.silent and token != alphabet.delimiter and bool(token.strip())

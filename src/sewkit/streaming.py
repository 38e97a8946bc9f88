"""Live sound to words: blocks of samples in, partial and final words out.

with asr.stream() as stream:
    for block in microphone:
        for event in stream.feed(block):
            print(event.text)
    for event in stream.finish():
        print(event.text)

The sound is heard twice. In windows on the grid of `segments`, at a cheap operating point: they give the partial words
and find the pauses. And each segment, once it is over, in one piece, at the full operating point and with the full
decoder: that gives the final words. Both depend on the sound alone and not on its blocks, and
`transcribe(..., segmentation=...)` does the same: live words are equal to those of the recording.

Counted in sound, a word is heard for a partial at most `hop` (0.72 s) after its end. Its final comes at most pause +
0.24 s + lookahead + hop (2.04 s) after the last word of the segment, later only if that is not `shortest` yet; where
nobody pauses, after `longest`. Windows cost window / hop (4) times the sound at the cheap point, finals once at full.

A stream has no threads, `feed` does all the work. It keeps the open segment and the last window, so that memory and the
cost of a partial are bounded however long it runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from sewkit.audio import SAMPLE_RATE, LiveSound
from sewkit.compute import Compute, operating_points, resolve
from sewkit.decode import Decoder, FrameLabels, FrameTiming, best_labels, decode_words
from sewkit.errors import UserError
from sewkit.lengths import hop_samples, informed_length, num_frames, receptive_field
from sewkit.runtime import Runtime
from sewkit.segments import Grid, Segmentation, Segmenter, Span, holds_letter
from sewkit.text import Alphabet
from sewkit.transcript import Word


@dataclass(frozen=True)
class Partial:
    """The words since the last final; the next event takes their place.

    Of them the first `stable` stay as they are until their final, for which the sound is heard anew. Where a final is
    of the first words only, the others come again in a partial.
    """

    words: list[Word]
    stable: int

    @property
    def text(self) -> str:
        """The words in one line."""
        return _text(self.words)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; times to the millisecond."""
        words = [word.to_dict() for word in self.words]
        return {"type": "partial", "text": self.text, "stable": self.stable, "words": words}


@dataclass(frozen=True)
class Final:
    """The words of a segment, which lasted from `start` to `end`: seconds since the stream began, as in its words.

    There may be none, where a window seemed to hold letters that the whole segment does not.
    """

    words: list[Word]
    start: float
    end: float

    @property
    def text(self) -> str:
        """The words in one line."""
        return _text(self.words)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; times to the millisecond."""
        words = [word.to_dict() for word in self.words]
        times = {"start": round(self.start, 3), "end": round(self.end, 3)}
        return {"type": "final", "text": self.text, **times, "words": words}


Event: TypeAlias = Partial | Final


class Stream:
    """One live signal; `Recognizer.stream` opens it.

    Leaving it as a context manager drops what it holds; only `finish` gives the last words.
    """

    def __init__(
        self,
        runtime: Runtime,
        alphabet: Alphabet,
        decoder: Decoder,
        *,
        compute: Compute | None = None,
        segmentation: Segmentation | None = None,
        sample_rate: int = SAMPLE_RATE,
        partials: bool = True,
    ):
        """See `Recognizer.stream`."""
        config, segmentation = runtime.config, segmentation or Segmentation()
        self._runtime, self._alphabet, self._decoder = runtime, alphabet, decoder
        self.compute = resolve(config, compute)
        """The operating point of the finals to come; a server that is busy sets a cheaper one on the way."""
        self._window_compute = resolve(config, segmentation.compute or operating_points(config)[0])
        self._letter = segmentation.letter
        self._hop = hop_samples(config.conv_layers)
        self._timing = FrameTiming(self._hop, receptive_field(config.conv_layers), SAMPLE_RATE)
        self._grid = Grid(segmentation, self._hop)
        self._segmenter = Segmenter(self._grid)
        self._draft = _Draft(alphabet, self._timing) if partials else None
        self._input = LiveSound(sample_rate)
        self._sound = _Sound()
        self._num_windows = 0
        self._num_settled = 0
        self._tail = np.zeros((0, len(alphabet)), np.float32)  # logits behind the settled frames
        self._is_open = True

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def seconds(self) -> float:
        """Sound taken so far."""
        return self._sound.end / SAMPLE_RATE

    def feed(self, block: np.ndarray) -> list[Event]:
        """Take the next samples, (num_samples,) float32 or int16, any number of them.

        Gives the segments that ended in them, then the open segment's words if they changed: one partial a call at
        most. Raises UserError for samples that are no sound, and after the end.
        """
        self._expect_open()
        return [*self._take(self._input.feed(block)), *self._partial()]

    def finish(self) -> list[Final]:
        """The end of the signal: gives the last words. Raises UserError the second time."""
        self._expect_open()
        finals = self._take(self._input.finish())
        if self._sound.end > self._num_windows * self._grid.hop * self._hop:  # what no window has heard yet
            finals += self._hear_window()
        finals += self._settle(self._tail)
        finals += [self._final(span) for span in self._segmenter.finish()]
        self._close()
        return finals

    def _expect_open(self) -> None:
        if not self._is_open:
            raise UserError("this stream has ended; open another one")

    def _close(self) -> None:
        self._is_open = False
        self._sound.drop_before(self._sound.end)

    def _take(self, samples: np.ndarray) -> list[Final]:
        """The next sound at 16 kHz, window by window, so that a long block needs no more memory than itself."""
        finals: list[Final] = []
        while len(samples):
            missing = self._grid.window(self._num_windows).end * self._hop - self._sound.end
            self._sound.append(samples[:missing])
            if len(samples) >= missing:
                finals += self._hear_window()
            samples = samples[missing:]
        return finals

    def _hear_window(self) -> list[Final]:
        window = self._grid.window(self._num_windows)
        samples = self._sound.between(window.start * self._hop, window.end * self._hop)
        logits = self._hear(samples, self._window_compute)
        fresh, settled = self._num_settled - window.start, window.settled - window.start
        self._num_windows += 1
        self._tail = logits[settled:]
        return self._settle(logits[fresh:settled])

    def _settle(self, logits: np.ndarray) -> list[Final]:
        """The next settled frames; gives the segments that end in them, and lets go of their sound."""
        self._num_settled += len(logits)
        if self._draft is not None:
            self._draft.settle(logits)
        spans = self._segmenter.feed(holds_letter(logits, self._alphabet, self._letter))
        finals = [self._final(span) for span in spans]
        if self._draft is not None:
            self._draft.begin_at(self._segmenter.start, is_new=bool(finals))
        next_window = self._grid.window(self._num_windows)
        self._sound.drop_before(min(self._segmenter.start, next_window.start) * self._hop)
        return finals

    def _final(self, span: Span) -> Final:
        first, end = span.start * self._hop, self._sound.end if span.end is None else span.end * self._hop
        state = self._decoder.start()
        state.feed(self._hear(self._sound.between(first, end), self.compute))
        words = decode_words(state.labels(), self._alphabet, self._timing)
        offset = first / SAMPLE_RATE
        return Final(_later(words, offset), offset, end / SAMPLE_RATE)

    def _hear(self, samples: np.ndarray, compute: Compute) -> np.ndarray:
        """(S,) -> (T, V) logits. Alone, because what shares a batch moves their last bits; without SEW's zero tail."""
        (logits,) = self._runtime.logits([samples], compute)
        return logits[: informed_length(num_frames(len(samples), self._runtime.config.conv_layers), compute.squeeze)]

    def _partial(self) -> list[Partial]:
        partial = None if self._draft is None else self._draft.changed(self._tail)
        return [] if partial is None else [partial]


class _Draft:
    """The words of the open segment, by its settled frames and those behind them."""

    def __init__(self, alphabet: Alphabet, timing: FrameTiming):
        self._alphabet, self._timing = alphabet, timing
        self._gaps = [index for index, token in enumerate(alphabet.tokens) if token == alphabet.delimiter]
        self._first = 0  # frame of the first label
        self._settled = best_labels(np.zeros((0, len(alphabet)), np.float32))
        self._told = ("", 0)

    def settle(self, logits: np.ndarray) -> None:
        """Take the next settled frames."""
        self._settled = FrameLabels.concatenate([self._settled, best_labels(logits)])

    def begin_at(self, frame: int, is_new: bool) -> None:
        """The open segment begins here; with `is_new` it is another one than before."""
        count = max(0, frame - self._first)
        self._settled = FrameLabels(self._settled.ids[count:], self._settled.probabilities[count:])
        self._first += count
        if is_new:
            self._told = ("", 0)

    def changed(self, tail: np.ndarray) -> Partial | None:
        """The words with those of the frames behind the settled ones; None if they were told before."""
        words = self._words(FrameLabels.concatenate([self._settled, best_labels(tail)]))
        # A word is stable from the space behind it on: no letter can join it.
        spaces = np.flatnonzero(np.isin(self._settled.ids, self._gaps))
        end = spaces[-1] + 1 if len(spaces) else 0
        stable = self._words(FrameLabels(self._settled.ids[:end], self._settled.probabilities[:end]))
        partial = Partial(words, len(stable))
        telling = (partial.text, partial.stable)
        if telling == self._told:
            return None
        self._told = telling
        return partial

    def _words(self, labels: FrameLabels) -> list[Word]:
        return _later(decode_words(labels, self._alphabet, self._timing), self._timing.start(self._first))


class _Sound:
    """The end of a signal, its samples counted from the signal's start."""

    def __init__(self) -> None:
        self.end = 0
        self._pieces = [np.zeros(0, np.float32)]
        self._num_dropped = 0

    def append(self, samples: np.ndarray) -> None:
        """Take the next samples."""
        self._pieces.append(samples)
        self.end += len(samples)

    def between(self, first: int, end: int) -> np.ndarray:
        """Samples [first, end), fewer where the signal ends before."""
        joined = np.concatenate(self._pieces)
        self._pieces = [joined]
        return joined[first - self._num_dropped : end - self._num_dropped]

    def drop_before(self, first: int) -> None:
        """Let go of what comes before a sample."""
        kept = self.between(first, self.end).copy()
        self._pieces, self._num_dropped = [kept], self.end - len(kept)


def _later(words: list[Word], offset: float) -> list[Word]:
    """The same words, `offset` seconds later."""
    return [replace(word, start=round(word.start + offset, 3), end=round(word.end + offset, 3)) for word in words]


def _text(words: list[Word]) -> str:
    return " ".join(word.text for word in words)

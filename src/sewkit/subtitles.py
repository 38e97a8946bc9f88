"""Words with times -> subtitle cues that can be read: short lines, balanced, on screen for long enough.

The words between two long pauses are divided so that the sum of what is wrong with the cues is least (dynamic
programming): a break costs less the longer the pause or the stronger the punctuation it falls on, and a cue costs as
much as it lacks of the time to read it. A cue stays after its last word for as long as it takes to read, but never into
the next one. So the limits of lines and length hold always, that of reading speed as far as the speaker allows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sewkit.errors import UserError

if TYPE_CHECKING:
    from sewkit.transcript import Word

LONG_PAUSE = 800  # milliseconds of silence that always end a cue
STRONG, WEAK = (".", "?", "!", "…"), (",", ";", ":")
CUE_COST = 0.5  # of a cue more, in what a second too short costs


@dataclass(frozen=True)
class SubtitleStyle:
    """Limits of a cue. A word that is longer than a line has a line of its own. Raises UserError.

    min_seconds and characters_per_second are kept where the next cue leaves time for it.
    """

    max_line_width: int = 42
    max_line_count: int = 2
    max_seconds: float = 7.0
    min_seconds: float = 1.0
    characters_per_second: float = 17.0

    def __post_init__(self) -> None:
        numbers = (self.max_line_width, self.max_line_count, self.min_seconds, self.characters_per_second)
        if not min(numbers) > 0 or not self.max_seconds >= self.min_seconds:
            raise UserError(f"{self}; expected numbers above 0, and max_seconds of at least min_seconds")


USUAL = SubtitleStyle()


@dataclass(frozen=True)
class Cue:
    """What is on screen from `start` to `end`, whole milliseconds in seconds."""

    lines: list[str]
    start: float
    end: float


def lay_out(words: Sequence[Word], style: SubtitleStyle, duration: float) -> list[Cue]:
    """Cues of words in order of time, which hold each word once and do not overlap.

    duration: of the recording in seconds, beyond which no cue stays.
    """
    offsets = itertools.accumulate((len(word.text) + 1 for word in words), initial=0)
    timed = [_Timed.of(word, offset) for word, offset in zip(words, offsets, strict=False)]
    following = [word.start for word in timed[1:]]  # when the cue that ends with a word has to be gone
    if timed:
        following.append(max(timed[-1].end, round(1000 * duration)))
    cues = []
    for first, stop in _utterances(timed):
        breaks = _best_breaks(timed, following, first, stop, style)
        cues += [_cue(timed[begin:next], following[next - 1], style) for begin, next in breaks]
    return cues


@dataclass(frozen=True)
class _Timed:
    """A word in milliseconds, and which characters it has of the whole text, its words with single spaces."""

    text: str
    start: int
    end: int
    first_character: int
    end_character: int

    @classmethod
    def of(cls, word: Word, offset: int) -> _Timed:
        start, end = (round(1000 * float(seconds)) for seconds in (word.start, word.end))
        return cls(word.text, start, end, offset, offset + len(word.text))


def _utterances(words: Sequence[_Timed]) -> Iterator[tuple[int, int]]:
    """[first, stop) of the words between long pauses."""
    first = 0
    for index in range(1, len(words) + 1):
        if index == len(words) or words[index].start - words[index - 1].end >= LONG_PAUSE:
            yield first, index
            first = index


def _best_breaks(
    words: Sequence[_Timed], following: Sequence[int], first: int, stop: int, style: SubtitleStyle
) -> list[tuple[int, int]]:
    """[begin, next) of the cues of one utterance."""
    costs = {first: 0.0}  # by the word that would begin the next cue
    came_from: dict[int, int] = {}
    for begin in range(first, stop):
        for next in _ends(words, begin, stop, style):
            cost = costs[begin] + CUE_COST + _shortfall(words[begin], words[next - 1], following[next - 1], style)
            cost += 0.0 if next == stop else _break_cost(words[next - 1], words[next])
            if cost < costs.get(next, float("inf")):
                costs[next], came_from[next] = cost, begin
    cues = []
    while stop > first:
        cues.append((came_from[stop], stop))
        stop = came_from[stop]
    return cues[::-1]


def _ends(words: Sequence[_Timed], begin: int, stop: int, style: SubtitleStyle) -> Iterator[int]:
    """Where a cue that begins with a word may end: lines and length within limits, or it is a single word."""
    num_lines, width = 1, -1
    for index in range(begin, stop):
        length = len(words[index].text)
        if width >= 0 and width + 1 + length > style.max_line_width:
            num_lines, width = num_lines + 1, -1
        width += 1 + length
        too_long = words[index].end - words[begin].start > 1000 * style.max_seconds
        if index > begin and (num_lines > style.max_line_count or too_long):
            return
        yield index + 1


def _break_cost(before: _Timed, after: _Timed) -> float:
    """From 0 where a break is natural to 1 in the middle of a phrase."""
    if before.text.endswith(STRONG):
        return 0.0
    if before.text.endswith(WEAK):
        return 0.3
    return 1.0 - min(max(after.start - before.end, 0) / LONG_PAUSE, 1.0)


def _needed(first: _Timed, last: _Timed, style: SubtitleStyle) -> int:
    """Milliseconds that it takes to read the words from the first to the last of a cue."""
    num_characters = last.end_character - first.first_character
    seconds = max(style.min_seconds, num_characters / style.characters_per_second)
    return round(1000 * min(seconds, style.max_seconds))


def _end(first: _Timed, last: _Timed, following: int, style: SubtitleStyle) -> int:
    """A cue ends with its last word or when it is read, and before what follows."""
    wanted = max(last.end, first.start + _needed(first, last, style))
    return max(first.start, min(wanted, following, first.start + round(1000 * style.max_seconds)))


def _shortfall(first: _Timed, last: _Timed, following: int, style: SubtitleStyle) -> float:
    """Seconds by which a cue is too short to read."""
    missing = _needed(first, last, style) - (_end(first, last, following, style) - first.start)
    return max(missing, 0) / 1000


def _cue(words: Sequence[_Timed], following: int, style: SubtitleStyle) -> Cue:
    lines = balanced_lines([word.text for word in words], style.max_line_width)
    return Cue(lines, words[0].start / 1000, _end(words[0], words[-1], following, style) / 1000)


def balanced_lines(words: Sequence[str], width: int) -> list[str]:
    """As few lines as `width` allows, the longest of them as short as can be."""
    fewest = len(_wrap(words, width))
    narrow = next(narrow for narrow in range(1, width + 1) if len(_wrap(words, narrow)) == fewest)
    return _wrap(words, narrow)


def _wrap(words: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines

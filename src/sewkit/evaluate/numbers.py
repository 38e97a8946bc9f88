"""English cardinal numbers in words -> digits: "two hundred and five" -> "205"."""

from __future__ import annotations

from collections.abc import Iterator

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ONES = {word: value for value, word in enumerate(_ONES.split())}
TENS = {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
POINT = "point"


class _Number:
    """A cardinal number while its words come in. `add` says whether a word belongs to it."""

    def __init__(self) -> None:
        self.total = 0  # of what a scale has closed
        self.group = 0  # below a thousand
        self.smallest_scale = 10**15
        self.room = 1000  # the next word must be worth less than this

    @property
    def value(self) -> int:
        return self.total + self.group

    def add(self, word: str) -> bool:
        if word in ONES or word in TENS:
            return self._add_small(ONES.get(word, TENS.get(word, 0)))
        if word == "hundred":
            return self._add_hundred()
        return word in SCALES and self._add_scale(SCALES[word])

    def _add_small(self, value: int) -> bool:
        if value >= self.room or (value == 0 and (self.value or self.room < 1000)):
            return False
        self.group += value
        self.room = 10 if value >= 20 else 0
        return True

    def _add_hundred(self) -> bool:
        is_round = self.group >= 20 and self.group % 10 == 0  # nobody says "twenty hundred"
        if not 0 < self.group < 100 or is_round:
            return False
        self.group *= 100
        self.room = 100
        return True

    def _add_scale(self, scale: int) -> bool:
        if not self.group or scale >= self.smallest_scale:
            return False
        self.total += self.group * scale
        self.group, self.smallest_scale, self.room = 0, scale, 1000
        return True


def digits_of_words(text: str) -> str:
    """Lower-case words separated by spaces -> the same with each cardinal number in digits.

    "twenty one" -> "21", "one hundred and five" -> "105", "three point one four" -> "3.14". What does not make one
    number stays apart: "five six" -> "5 6", "nineteen eighty" -> "19 80". "one" is a number wherever it stands, and
    ordinals ("first") stay words. A number in digits takes a scale: "2 million" -> "2000000".
    """
    return " ".join(_converted(text.split()))


def _converted(words: list[str]) -> Iterator[str]:
    position = 0
    while position < len(words):
        digits, end = _number_at(words, position)
        yield digits if end > position else words[position]
        position = max(end, position + 1)


def _number_at(words: list[str], start: int) -> tuple[str, int]:
    """The number that begins at a word, and where it ends; the end is the start where none begins."""
    number, end = _Number(), start
    if words[start].isascii() and words[start].isdigit() and len(words[start]) <= 3:
        number.group, number.room, end = int(words[start]), 0, start + 1
    while end < len(words):
        after_and = end + 1 < len(words) and words[end] == "and" and end > start and words[end - 1] in _BEFORE_AND
        if after_and and number.add(words[end + 1]):
            end += 2
        elif number.add(words[end]):
            end += 1
        else:
            break
    if end == start:
        return "", start
    digits = words[start] if end == start + 1 and words[start].isdigit() else str(number.value)
    return _with_decimals(digits, words, end)


_BEFORE_AND = frozenset({"hundred", *SCALES})


def _with_decimals(digits: str, words: list[str], end: int) -> tuple[str, int]:
    """ "point" and the digits after it, read one by one."""
    last = end + 1
    while last < len(words) and ONES.get(words[last], 10) < 10:
        last += 1
    if end < len(words) and words[end] == POINT and last > end + 1:
        return f"{digits}." + "".join(str(ONES[word]) for word in words[end + 1 : last]), last
    return digits, end

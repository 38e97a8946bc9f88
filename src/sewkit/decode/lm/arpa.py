r"""ARPA files, plain or gzipped: the text format in which every toolkit exchanges n-gram models.

    \data\
    ngram 1=4
    ngram 2=2

    \1-grams:
    -1.2<tab>word<tab>-0.3          log10 probability, words, log10 back-off weight (0 where it is missing)
    ...
    \end\

Reading streams the file in blocks into compact arrays, 4 (n + 2) bytes an n-gram of order n.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, NoReturn, cast

import numpy as np

from sewkit.errors import UserError
from sewkit.files import replacing

BLOCK_BYTES = 1 << 22
"""Text that is parsed, or written, at a time."""


class LanguageModelError(UserError):
    """A language model can't be read, or does not fit."""


class NGrams(NamedTuple):
    """All n-grams of one order: words (M, n) int32, log10 probabilities and back-off weights (M,) float32."""

    words: np.ndarray
    log10_prob: np.ndarray
    log10_backoff: np.ndarray


@dataclass(frozen=True)
class Arpa:
    """What an ARPA file says. `vocabulary[i]` is the word with id i, in the order of the unigrams."""

    vocabulary: list[str]
    orders: list[NGrams]


def read_arpa(path: str | os.PathLike[str]) -> Arpa:
    """Read an ARPA file. Raises LanguageModelError that names the line."""
    parser = _Parser(Path(path))
    try:
        with _open_binary(Path(path)) as file:
            while lines := file.readlines(BLOCK_BYTES):
                parser.feed(lines)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LanguageModelError(f"{path}: damaged gzip file after line {parser.line}: {error}") from error
    except OSError as error:
        raise LanguageModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parser.finish()


def _open_binary(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return cast("IO[bytes]", gzip.open(path)) if is_gzip else path.open("rb")


@dataclass
class _Parser:
    """Blocks of lines -> arrays. Lines of a block are split together; only where something is odd, one by one."""

    path: Path
    line: int = 0
    """Lines read so far."""
    section: int = -1
    """-1 before the header, 0 in it, n among the n-grams, and `ended` after them."""
    ended: bool = False
    promised: list[int] = field(default_factory=list)
    ids: dict[bytes, int] = field(default_factory=dict)
    pieces: list[list[NGrams]] = field(default_factory=list)

    def feed(self, lines: list[bytes]) -> None:
        """Take the next lines of the file."""
        marks = [index for index, line in enumerate(lines) if line[:1] == b"\\"]
        begin = 0
        for mark in marks:
            self._take(lines[begin:mark], self.line + begin + 1)
            self._enter(lines[mark].strip(), self.line + mark + 1)
            begin = mark + 1
        self._take(lines[begin:], self.line + begin + 1)
        self.line += len(lines)

    def finish(self) -> Arpa:
        """What was read, once the file is at its end."""
        if self.section < 0:
            raise LanguageModelError(f"{self.path}: no \\data\\ line, so this is not an ARPA file")
        if not self.ended:
            self._fail(self.line, "the file stops without \\end\\: it is truncated; copy it again")
        orders = [
            NGrams(*(np.concatenate(parts) for parts in zip(*pieces, strict=True))) for pieces in self.pieces if pieces
        ]
        return Arpa([word.decode("utf-8", "replace") for word in self.ids], orders)

    def _enter(self, mark: bytes, line: int) -> None:
        if mark == b"\\data\\" and self.section < 0:
            self.section = 0
        elif self.section < 0 or self.ended:
            pass  # free text around the model
        else:
            self._leave(line)
            expected = b"\\end\\" if self.section == len(self.promised) else b"\\%d-grams:" % (self.section + 1)
            if mark != expected:
                self._fail(line, f"expected {expected.decode()}, found {mark.decode('utf-8', 'replace')!r}")
            self.ended = mark == b"\\end\\"
            self.section += 1

    def _leave(self, line: int) -> None:
        """Check at a section's end that it held what the header promised."""
        if self.section == 0:
            if not self.promised:
                self._fail(line, "the header has no line such as 'ngram 1=1000'")
            self.pieces = [[] for _ in self.promised]
            return
        found = sum(len(piece.words) for piece in self.pieces[self.section - 1])
        if found != (promised := self.promised[self.section - 1]):
            self._fail(line, f"{found} {self.section}-grams stand before this line, the header promised {promised}")

    def _take(self, lines: list[bytes], line: int) -> None:
        if self.section == 0:
            self._take_header(lines, line)
        elif self.section > 0 and not self.ended:
            self._take_ngrams(lines, line)

    def _take_header(self, lines: list[bytes], line: int) -> None:
        for number, text in enumerate(lines, start=line):
            if text.isspace():
                continue
            key, equals, count = text.strip().partition(b"=")
            if key.split() != [b"ngram", b"%d" % (len(self.promised) + 1)] or not equals or not count.strip().isdigit():
                wanted = f"ngram {len(self.promised) + 1}=COUNT"
                self._fail(number, f"expected {wanted!r}, found {text.strip().decode('utf-8', 'replace')!r}")
            self.promised.append(int(count))

    def _take_ngrams(self, lines: list[bytes], line: int) -> None:
        order = self.section
        rows = list(map(bytes.split, lines))
        widths = set(map(len, rows))
        if not widths <= {0, order + 1, order + 2}:
            bad = next(index for index, row in enumerate(rows) if len(row) not in (0, order + 1, order + 2))
            found = (
                f"expected a probability, {order} words and perhaps a back-off weight, found {len(rows[bad])} fields"
            )
            self._fail(line + bad, found)
        numbers: Sequence[int] = range(line, line + len(rows))
        if 0 in widths:
            numbers, rows = _without_blank(numbers, rows)
        if rows:
            self._take_rows(rows, numbers, order)

    def _take_rows(self, rows: list[list[bytes]], numbers: Sequence[int], order: int) -> None:
        columns = list(zip(*(row if len(row) > order + 1 else [*row, b"0"] for row in rows), strict=True))
        probs = self._floats(columns[0], numbers, "log10 probability")
        backoffs = self._floats(columns[-1], numbers, "log10 back-off weight")
        if (positive := np.flatnonzero(probs > 0)).size:
            self._fail(numbers[positive[0]], f"log10 probability {columns[0][positive[0]].decode()} is above 0")
        if order == 1:
            self._add_words(columns[1], numbers)
        words = np.empty((len(rows), order), np.int32)
        for place, column in enumerate(columns[1:-1]):
            ids = list(map(self.ids.get, column))
            if None in ids:
                unknown = ids.index(None)
                word = column[unknown].decode("utf-8", "replace")
                self._fail(numbers[unknown], f"the word {word!r} is not among the 1-grams")
            words[:, place] = cast("list[int]", ids)
        self.pieces[order - 1].append(NGrams(words, probs, backoffs))

    def _add_words(self, words: tuple[bytes, ...], numbers: Sequence[int]) -> None:
        for word, number in zip(words, numbers, strict=True):
            known = len(self.ids)
            if self.ids.setdefault(word, known) != known:
                self._fail(number, f"the word {word.decode('utf-8', 'replace')!r} stands twice among the 1-grams")

    def _floats(self, column: tuple[bytes, ...], numbers: Sequence[int], what: str) -> np.ndarray:
        try:
            values = np.array(list(map(float, column)), np.float32)
        except ValueError:
            values = np.array([_float_or_nan(text) for text in column], np.float32)
        if (wrong := np.flatnonzero(np.isnan(values))).size:
            self._fail(numbers[wrong[0]], f"{column[wrong[0]].decode('utf-8', 'replace')!r} is not a {what}")
        return values

    def _fail(self, line: int, problem: str) -> NoReturn:
        raise LanguageModelError(f"{self.path}, line {line}: {problem}")


def _without_blank(numbers: Sequence[int], rows: list[list[bytes]]) -> tuple[list[int], list[list[bytes]]]:
    full = [(number, row) for number, row in zip(numbers, rows, strict=True) if row]
    return [number for number, _ in full], [row for _, row in full]


def _float_or_nan(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def write_arpa(path: str | os.PathLike[str], arpa: Arpa) -> None:
    """Write an ARPA file, gzipped if its name ends in .gz; the same model gives the same bytes.

    It appears whole or not at all. Raises UserError where it cannot be written.
    """
    path = Path(path)
    with replacing(path) as draft, _writing(draft, compress=path.suffix == ".gz") as file:
        for text in _chunks(arpa):
            file.write(text.encode())


@contextmanager
def _writing(path: Path, *, compress: bool) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        if not compress:
            yield file
            return
        # No name and no time inside: the bytes depend on the model alone.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            yield cast("IO[bytes]", packed)


def _chunks(arpa: Arpa) -> Iterator[str]:
    counts = [f"ngram {order}={len(ngrams.words)}\n" for order, ngrams in enumerate(arpa.orders, start=1)]
    yield "\\data\\\n" + "".join(counts)
    for order, ngrams in enumerate(arpa.orders, start=1):
        yield f"\n\\{order}-grams:\n"
        is_highest = order == len(arpa.orders)
        for begin in range(0, len(ngrams.words), 1 << 16):
            rows = slice(begin, begin + (1 << 16))
            yield _lines(arpa.vocabulary, NGrams(*(column[rows] for column in ngrams)), is_highest)
    yield "\n\\end\\\n"


def _lines(vocabulary: list[str], ngrams: NGrams, is_highest: bool) -> str:
    texts = [" ".join([vocabulary[word] for word in row]) for row in ngrams.words.tolist()]
    probs, backoffs = ngrams.log10_prob.tolist(), ngrams.log10_backoff.tolist()
    if is_highest:
        return "".join([f"{prob:.7g}\t{text}\n" for prob, text in zip(probs, texts, strict=True)])
    lines = zip(probs, texts, backoffs, strict=True)
    return "".join([f"{prob:.7g}\t{text}\t{backoff:.7g}\n" for prob, text, backoff in lines])

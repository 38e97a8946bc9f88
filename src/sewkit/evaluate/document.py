"""What a report says, apart from how it is written: figures, facts, tables, utterances with their errors. And Markdown.

Evaluations and comparisons are both made into a `Document`; `html.py` and `to_markdown` write any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sewkit.evaluate.edits import Edit

MARKDOWN_ROWS = 20
MARKDOWN_EXCERPTS = 10
LINE_WIDTH = 110


@dataclass(frozen=True)
class Column:
    """Of a table. spec: how values are formatted; "" for text."""

    title: str
    spec: str = ""

    def show(self, value: Any) -> str:
        """A cell for people."""
        return "" if value is None else format(value, self.spec)


@dataclass(frozen=True)
class Table:
    """Rows in the order that matters most; a reader may sort them by another column."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A number that the report is about."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Reading:
    """What one system wrote, aligned with the reference."""

    system: str
    """Its label, where several are shown; or ""."""
    edits: list[Edit]


@dataclass(frozen=True)
class Excerpt:
    """An utterance. audio: a compressed file for a player; without, `audio_note` says why."""

    title: str
    detail: str
    readings: list[Reading]
    audio: bytes | None = None
    audio_note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Utterances chosen for a reason."""

    title: str
    note: str
    excerpts: list[Excerpt]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    figures: list[Figure]
    facts: list[tuple[str, str]]
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)


def to_markdown(document: Document) -> str:
    """Without audio; long tables and galleries are cut, and say so."""
    figures = Table("", (Column(""), Column(""), Column("")), [(f.name, f.value, f.detail) for f in document.figures])
    facts = Table("", (Column(""), Column("")), document.facts)
    sections = [f"# {_inline(document.title)}", _table(figures), _bullets(document.notes)]
    for table in document.tables:
        sections += [f"## {_inline(table.title)}", _inline(table.note), _table(table)]
    for gallery in document.galleries:
        sections += [f"## {_inline(gallery.title)}", _inline(gallery.note), *_excerpts(gallery.excerpts)]
    sections += ["## How it was measured", _table(facts)]
    return "\n\n".join(section for section in sections if section) + "\n"


def aligned_text(edits: Sequence[Edit], label: str = "") -> str:
    """Reference above hypothesis, each word above its own, missing words as asterisks, and S, D or I below errors."""
    blocks: list[list[tuple[str, str, str]]] = [[]]
    width = 0
    for edit in edits:
        column = _column(edit)
        width += len(column[0]) + 1
        if width > LINE_WIDTH and blocks[-1]:
            blocks.append([])
            width = len(column[0]) + 1
        blocks[-1].append(column)
    labels = ("REF", f"HYP {label}".strip(), "")
    space = max(map(len, labels))
    return "\n\n".join(
        "\n".join(
            f"{name:<{space}}  {' '.join(words)}".rstrip()
            for name, words in zip(labels, zip(*block, strict=True), strict=True)
        )
        for block in blocks
        if block
    )


def _column(edit: Edit) -> tuple[str, str, str]:
    mark = "" if edit.kind == "equal" else edit.kind[0].upper()
    size = max(len(word or "") for word in edit)
    above, below = (word or "*" * size for word in edit)
    return above.ljust(size), below.ljust(size), mark.ljust(size)


def _excerpts(excerpts: Sequence[Excerpt]) -> Iterator[str]:
    for excerpt in excerpts[:MARKDOWN_EXCERPTS]:
        body = "\n\n".join(aligned_text(reading.edits, reading.system) or "(no words)" for reading in excerpt.readings)
        fence = "`" * (3 + 3 * ("```" in body))
        yield f"**{_inline(excerpt.title)}** {_inline(excerpt.detail)}\n\n{fence}text\n{body}\n{fence}"
    if len(excerpts) > MARKDOWN_EXCERPTS:
        yield f"... and {len(excerpts) - MARKDOWN_EXCERPTS} more in report.html."


def _bullets(notes: Iterable[str]) -> str:
    return "\n".join(f"- {_inline(note)}" for note in notes)


def _table(table: Table) -> str:
    if not table.rows:
        return "None."
    lines = [[column.title for column in table.columns]]
    for row in table.rows[:MARKDOWN_ROWS]:
        lines.append([column.show(value) for column, value in zip(table.columns, row, strict=True)])
    head, *body = [f"| {' | '.join(_inline(cell) for cell in line)} |" for line in lines]
    rule = "|" + "|".join("---:" if column.spec else "---" for column in table.columns) + "|"
    more = len(table.rows) - MARKDOWN_ROWS
    return "\n".join([head, rule, *body]) + (f"\n\n... and {more:,} more in report.html." if more > 0 else "")


def _inline(text: str) -> str:
    """Nothing in it is taken for Markdown or HTML, and it stays on its line."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|" else character for character in text)

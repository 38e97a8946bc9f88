"""A report as one HTML file that needs no network: style, script and sound lie inside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from html import escape
from typing import Any

from sewkit.evaluate.document import Column, Document, Excerpt, Gallery, Reading, Table
from sewkit.evaluate.edits import Edit
from sewkit.evaluate.page import POLICY, SCRIPT, STYLE

MARKS = {"substitution": "S", "deletion": "D", "insertion": "I"}
MAX_ROWS = 1000
"""Of a table; a browser sorts as many at once."""
NOTHING = "\u2205"
"""Stands where one side has no word."""


def to_html(document: Document) -> str:
    """The whole page. All texts are escaped."""
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(document.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *_body(document),
            f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
        ]
    )


def _body(document: Document) -> Iterator[str]:
    yield f"<h1>{escape(document.title)}</h1>"
    yield '<div class="figures">'
    for figure in document.figures:
        detail = f'<span class="faint">{escape(figure.detail)}</span>'
        yield f'<div class="figure">{escape(figure.name)}<b>{escape(figure.value)}</b>{detail}</div>'
    yield "</div>"
    yield f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in document.notes)}</ul>'
    tables = ("\n".join([*_section(table.title, table.note), _table(table)]) for table in document.tables)
    yield f'<div class="tables">{"".join(f"<section>{table}</section>" for table in tables)}</div>'
    for gallery in document.galleries:
        yield from _gallery(gallery)
    yield from _section("How it was measured", "")
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in document.facts
    )
    yield f'<div class="scroll"><table>{rows}</table></div>'


def _section(title: str, note: str) -> Iterator[str]:
    yield f"<h2>{escape(title)}</h2>"
    if note:
        yield f'<p class="faint">{escape(note)}</p>'


def _table(table: Table) -> str:
    if not table.rows:
        return '<p class="faint">None.</p>'
    head = "".join(f"<th{_kind(column)}><button>{escape(column.title)}</button></th>" for column in table.columns)
    rows = "".join(
        f"<tr>{''.join(_cell(column, value) for column, value in zip(table.columns, row, strict=True))}</tr>\n"
        for row in table.rows[:MAX_ROWS]
    )
    more = len(table.rows) - MAX_ROWS
    rest = f'<p class="faint">... and {more:,} more in report.json.</p>' if more > 0 else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>{rest}'


def _kind(column: Column) -> str:
    return ' class="number"' if column.spec else ""


def _cell(column: Column, value: Any) -> str:
    """With the value that it is sorted by; a share has a bar behind it."""
    attributes = _kind(column)
    if column.spec.endswith("%") and "+" not in column.spec:
        attributes = f' class="number share" style="--share:{100 * min(max(value, 0), 1):.1f}%"'
    return f'<td{attributes} data-value="{escape(str(value))}">{escape(column.show(value))}</td>'


def _gallery(gallery: Gallery) -> Iterator[str]:
    yield from _section(gallery.title, gallery.note)
    if not gallery.excerpts:
        yield '<p class="faint">None.</p>'
        return
    yield LEGEND
    for excerpt in gallery.excerpts:
        yield _excerpt(excerpt)


def _excerpt(excerpt: Excerpt) -> str:
    title = f'<div><b>{escape(excerpt.title)}</b> <span class="faint">{escape(excerpt.detail)}</span></div>'
    sound = f'<span class="faint">{escape(excerpt.audio_note)}</span>' if excerpt.audio_note else ""
    if excerpt.audio is not None:
        data = b64encode(excerpt.audio).decode("ascii")
        label = escape(f"Recording of {excerpt.title}")
        source = f'aria-label="{label}" src="data:audio/ogg;base64,{data}"'
        sound = f'<audio controls preload="metadata" {source}></audio>{sound}'
    readings = "".join(_reading(reading) for reading in excerpt.readings)
    return f'<article class="excerpt"><header>{title}{sound}</header>{readings}</article>'


def _reading(reading: Reading) -> str:
    if not reading.edits:
        return '<p class="faint">No words, rightly.</p>'
    system = escape(reading.system or "heard")
    labels = f'<div class="pair labels"><span>reference</span><span>{system}</span></div>'
    return f'<div class="reading">{labels}{"".join(map(_pair, reading.edits))}</div>'


def _pair(edit: Edit) -> str:
    """The reference's word above what was written for it, and the letter of the error below both."""
    above, below = (NOTHING if word is None else escape(word) for word in edit)
    if edit.kind == "equal":
        return f'<div class="pair equal"><span>{above}</span><span>{below}</span></div>'
    mark = f'<small title="{edit.kind}">{MARKS[edit.kind]}</small>'
    return f'<div class="pair {edit.kind}"><span class="ref">{above}</span><span class="hyp">{below}</span>{mark}</div>'


LEGEND = (
    '<div class="legend faint">'
    + "".join(
        f"<span>{_pair(edit)} {MARKS[edit.kind]}: {meaning}</span>"
        for edit, meaning in (
            (Edit("one", "won"), "substitution, another word was written"),
            (Edit("one", None), "deletion, nothing was written"),
            (Edit(None, "one"), "insertion, nothing was said"),
        )
    )
    + "</div>"
)

"""Reports: the HTML file needs nothing but itself, shows every error, plays sound and escapes texts; Markdown too."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from toy_evaluations import evaluation

from sewkit.audio import SAMPLE_RATE
from sewkit.data.manifest import Part, Utterance
from sewkit.errors import UserError
from sewkit.evaluate.clips import CLIP_SECONDS, Clips
from sewkit.evaluate.compare import compare
from sewkit.evaluate.document import Column, Document, Table, aligned_text, to_markdown
from sewkit.evaluate.edits import Edit, align_texts
from sewkit.evaluate.html import MAX_ROWS, to_html
from sewkit.evaluate.report import comparison_document, evaluation_document, write_report

EVIL = "<script>alert('x')</script> & \"quoted\""
VOID = {"meta", "br", "img", "input", "link"}


class Page(HTMLParser):
    """Tags with their attributes, texts, and whether every tag is closed."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def classes(self) -> list[str]:
        return [attributes["class"] or "" for _, attributes in self.tags if "class" in attributes]


def utterances(folder: Path, seconds: list[float]) -> list[Utterance]:
    rows = []
    for number, length in enumerate(seconds):
        tone = 0.3 * np.sin(np.arange(int(length * SAMPLE_RATE)) * (0.1 + 0.02 * number))
        soundfile.write(folder / f"{number}.flac", tone, SAMPLE_RATE)
        parts = (Part(audio=folder / f"{number}.flac"),)
        rows.append(Utterance(parts=parts, text="", speaker="", duration=length, split=""))
    return rows


def test_the_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    found = evaluation([("GO ON", "GO OFF"), ("ON", "ON")])
    html = to_html(evaluation_document(found, Clips(utterances(tmp_path, [1.0, 2.0]))))
    page = Page(html)
    for attribute in ("src", "href", "srcset", "action"):
        links = [attributes[attribute] or "" for _, attributes in page.tags if attribute in attributes]
        assert all(link.startswith("data:") for link in links)
    assert not re.search(r"https?:|url\(|@import|fetch\(|import\(", html)
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_players_hold_the_sound_of_their_utterance(tmp_path: Path) -> None:
    found = evaluation([("GO", "GO"), ("ON", "OFF")])  # the second, wrong, comes first
    page = Page(to_html(evaluation_document(found, Clips(utterances(tmp_path, [1.0, 2.0])))))
    lengths = []
    for player in page.all("audio"):
        kind, data = (player["src"] or "").split(";base64,")
        assert kind == "data:audio/ogg"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data, validate=True)))
        lengths.append(len(samples) / rate)
        assert np.abs(samples).max() == pytest.approx(0.3, abs=0.1)  # Opus is lossy
        assert "controls" in player
    assert lengths == [pytest.approx(2.0, abs=0.05), pytest.approx(1.0, abs=0.05)]


def test_sound_stays_within_its_room_and_long_clips_are_cut(tmp_path: Path) -> None:
    rows = utterances(tmp_path, [1.0, 1.0, CLIP_SECONDS + 5.0])
    size = len(Clips(rows).clip(0)[0] or b"")
    clips = Clips(rows, max_bytes=size + size // 2)
    first = clips.clip(0)
    assert len(first[0] or b"") == size > 0
    assert clips.clip(1) == (None, "No sound: the report's room for sound is used up.")
    assert clips.clip(0) == first  # takes room once
    long, note = Clips(rows).clip(2)
    assert long is not None
    assert soundfile.info(io.BytesIO(long)).duration == pytest.approx(CLIP_SECONDS, abs=0.05)
    assert note == f"The first {CLIP_SECONDS} s."
    (tmp_path / "1.flac").unlink()
    assert Clips(rows).clip(1)[1].startswith("No sound: no such file")


def test_every_error_is_marked_by_a_letter_too_not_by_colour_alone() -> None:
    found = evaluation([("GO ON UP", "GO OFF UP DOWN"), ("NO", "")])
    page = Page(to_html(evaluation_document(found)))
    kinds = [one.removeprefix("pair ") for one in page.classes() if one.startswith("pair ")]
    # the legend of both galleries' one each; both utterances are wrong, so the sample is empty
    assert sorted(kinds[:3]) == ["deletion", "insertion", "substitution"]
    assert sorted(kinds[3:]) == ["deletion", "equal", "equal", "insertion", "labels", "labels", "substitution"]
    after = [page.texts[number + 1] for number, text in enumerate(page.texts) if text in ("OFF", "DOWN", "\u2205")]
    assert {"S", "I", "D"} <= set(after)


def test_texts_names_and_problems_are_escaped_everywhere() -> None:
    found = evaluation([(EVIL, f"{EVIL}!"), ("GO", "GO")], model=EVIL, speakers=[EVIL, ""])
    for document in (evaluation_document(found), comparison_document(compare(found, found))):
        html = to_html(document)
        page = Page(html)
        assert len(page.all("script")) == 1
        assert "alert" not in html.split("<script>")[1]
        assert "".join(page.texts).count("<script>alert('x')</script>") >= 2
        markdown = re.sub(r"```+text\n.*?```+\n", "", to_markdown(document), flags=re.DOTALL)
        assert "<script" not in markdown


def test_tables_can_be_sorted_by_their_values(tmp_path: Path) -> None:
    rows = [("a", 10, 0.5), ("b", 9, 1.25)]
    table = Table("T", (Column("name"), Column("count", ",d"), Column("rate", ".1%")), rows)
    page = Page(to_html(Document("D", [], [], tables=[table])))
    values = [one["data-value"] for one in page.all("td")]
    assert values == ["a", "10", "0.5", "b", "9", "1.25"]
    assert len(page.all("button")) == 3
    assert "125.0%" in page.texts
    assert [one["style"] for one in page.all("td") if "style" in one] == ["--share:50.0%", "--share:100.0%"]


def test_long_tables_are_cut_and_say_so() -> None:
    table = Table("T", (Column("n", ",d"),), [(number,) for number in range(MAX_ROWS + 234)])
    document = Document("D", [], [], tables=[table])
    html = to_html(document)
    assert html.count("<tr>") == MAX_ROWS + 1
    assert "... and 234 more in report.json." in html
    assert f"... and {MAX_ROWS + 214:,} more in report.html." in to_markdown(document)


def test_markdown_lines_words_up_and_marks_errors() -> None:
    (edits,) = align_texts(["GO ON UP"], ["GO OFF UP DOWN"])
    assert aligned_text(edits) == "REF  GO ON  UP ****\nHYP  GO OFF UP DOWN\n        S      I"
    assert aligned_text([Edit("NO", None)], "A") == "REF    NO\nHYP A  **\n       D"
    assert aligned_text([]) == ""
    wide = aligned_text([Edit("WORD", "WORD")] * 60)
    assert max(map(len, wide.splitlines())) < 120
    assert wide.count("REF") == 3


def test_a_cell_cannot_break_a_markdown_table() -> None:
    found = evaluation([("a|b\n", "`c`")], speakers=["x|y\nz"])
    lines = to_markdown(evaluation_document(found)).splitlines()
    (row,) = [line for line in lines if line.startswith("| x")]
    assert row.replace("\\|", "").count("|") == 8


def test_three_files_are_written_whole(tmp_path: Path) -> None:
    found = evaluation([("GO \udcff", "GO"), ("É", "É")])  # a name or text that is not UTF-8
    paths = write_report(tmp_path / "new" / "folder", evaluation_document(found), found.to_dict())
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    assert json.loads(paths[0].read_text("utf-8"))["utterances"][1]["reference"] == "É"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected a folder that can be written, found a file"):
        write_report(tmp_path / "file" / "below", evaluation_document(found), {})


def test_a_report_of_hundred_percent_right_or_wrong_has_all_its_parts() -> None:
    for pairs in ([("GO", "GO")], [("GO", "")], [("GO", "NO"), ("", "")]):
        found = evaluation(pairs)
        for text in (to_html(evaluation_document(found)), to_markdown(evaluation_document(found))):
            for part in ("By speaker", "By duration", "Most confused words", "Worst utterances", "Random sample"):
                assert part in text


def test_a_comparison_shows_both_readings() -> None:
    a, b = evaluation([("GO ON", "GO ON")]), evaluation([("GO ON", "GO OFF")], model="other")
    document = comparison_document(compare(a, b))
    (gallery,) = [one for one in document.galleries if one.excerpts]
    assert gallery.title == "Where A is better"
    assert [reading.system for reading in gallery.excerpts[0].readings] == ["A", "B"]
    assert gallery.excerpts[0].title == "1. 0 errors by A, 1 by B, in 2 words"
    Page(to_html(document))

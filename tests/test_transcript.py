"""Transcripts: segments, times and the files they are written to."""

import itertools
import json
import os
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sewkit import transcript as module
from sewkit.compute import Compute
from sewkit.errors import UserError
from sewkit.transcript import (
    WRITERS,
    AlignedWord,
    Alignment,
    Character,
    Transcript,
    Word,
    segment_words,
    write_transcript,
)


def make_transcript(words, source="calls/my call.wav", duration=12.0):
    segments = segment_words(words)
    text = " ".join(word.text for word in words)
    return Transcript(text, words, segments, duration, Compute(squeeze=4, kv_pool=2), source)


WORDS = [Word("one", 0.02, 0.3, 0.9), Word("two", 0.34, 0.5996, 0.80004), Word("three", 1.5, 3661.9999, 1.0)]
SHORT = make_transcript(WORDS)
EMPTY = make_transcript([])


@st.composite
def spoken_words(draw):
    words, time = [], 0.0
    for _ in range(draw(st.integers(0, 30))):
        start = time + draw(st.floats(0, 2))
        time = start + draw(st.floats(0, 12))
        words.append(Word("w", start, time, draw(st.floats(0, 1))))
    return words


def test_txt_has_a_line_for_every_segment():
    assert WRITERS["txt"](SHORT) == "one two\nthree\n"


def test_srt_layout():
    assert WRITERS["srt"](SHORT) == (
        "1\n00:00:00,020 --> 00:00:01,020\none two\n\n2\n00:00:01,500 --> 00:00:08,500\nthree\n\n"
    )


def test_vtt_layout():
    assert WRITERS["vtt"](SHORT) == (
        "WEBVTT\n\n00:00:00.020 --> 00:00:01.020\none two\n\n00:00:01.500 --> 00:00:08.500\nthree\n\n"
    )


def test_tsv_layout():
    assert WRITERS["tsv"](SHORT) == "start\tend\ttext\n20\t600\tone two\n1500\t3662000\tthree\n"


def test_ctm_layout_names_the_utterance_without_spaces():
    assert WRITERS["ctm"](SHORT) == (
        "my_call 1 0.020 0.280 one 0.9000\nmy_call 1 0.340 0.260 two 0.8000\nmy_call 1 1.500 3660.500 three 1.0000\n"
    )


def test_json_layout_follows_whisper():
    assert json.loads(WRITERS["json"](SHORT)) == {
        "text": "one two three",
        "duration": 12.0,
        "compute": {"squeeze": 4, "query_pool": 1, "kv_pool": 2},
        "segments": [
            {
                "id": 0,
                "start": 0.02,
                "end": 0.6,
                "text": "one two",
                "words": [
                    {"word": "one", "start": 0.02, "end": 0.3, "confidence": 0.9},
                    {"word": "two", "start": 0.34, "end": 0.6, "confidence": 0.8},
                ],
            },
            {
                "id": 1,
                "start": 1.5,
                "end": 3662.0,
                "text": "three",
                "words": [{"word": "three", "start": 1.5, "end": 3662.0, "confidence": 1.0}],
            },
        ],
    }


def test_to_dict_without_compute():
    assert replace(EMPTY, compute=None).to_dict()["compute"] is None


def test_numpy_times_become_plain_json():
    np = pytest.importorskip("numpy")
    word = Word("one", np.float32(0.1), np.float64(0.5), np.float32(0.25))
    assert json.loads(WRITERS["json"](make_transcript([word])))["segments"][0]["words"] == [
        {"word": "one", "start": 0.1, "end": 0.5, "confidence": 0.25}
    ]


@pytest.mark.parametrize(
    ("format", "text"),
    [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n\n"), ("tsv", "start\tend\ttext\n"), ("ctm", "")],
)
def test_empty_transcript_gives_a_valid_empty_file(format, text):
    assert WRITERS[format](EMPTY) == text


def test_empty_transcript_gives_json_without_segments():
    assert json.loads(WRITERS["json"](EMPTY))["segments"] == []


def test_text_cannot_break_the_layout():
    hostile = make_transcript([Word("<unk>", 0, 1, 1), Word("-->", 1, 2, 1), Word("a\tb", 2, 3, 1)])
    assert WRITERS["srt"](hostile).count("-->") == 1
    assert WRITERS["vtt"](hostile).count("-->") == 1
    assert "&lt;unk&gt;" in WRITERS["vtt"](hostile)
    assert all(line.count("\t") == 2 for line in WRITERS["tsv"](hostile).splitlines())


@given(st.floats(0, 400 * 3600))
def test_a_written_time_reads_back_to_the_millisecond(seconds):
    hours, minutes, rest = module._clock(seconds, ".").split(":")
    assert int(minutes) < 60
    assert float(rest) < 60
    assert re.fullmatch(r"\d\d\.\d\d\d", rest)
    # Half a millisecond of rounding, and float error at a million seconds.
    assert int(hours) * 3600 + int(minutes) * 60 + float(rest) == pytest.approx(seconds, abs=0.0005001)


@given(spoken_words())
def test_no_written_interval_ends_before_it_starts(words):
    transcript = make_transcript(words)
    for start, end in re.findall(r"(\S+) --> (\S+)", WRITERS["srt"](transcript)):
        assert start <= end
    for row in WRITERS["tsv"](transcript).splitlines()[1:]:
        assert int(row.split("\t")[0]) <= int(row.split("\t")[1])
    for line in WRITERS["ctm"](transcript).splitlines():
        assert float(line.split()[3]) >= 0


@given(spoken_words())
def test_segments_hold_every_word_once_and_in_order(words):
    segments = segment_words(words)
    assert [word for segment in segments for word in segment.words] == words
    for segment in segments:
        assert segment.start == segment.words[0].start
        assert segment.end == segment.words[-1].end
        assert len(segment.words) == 1 or segment.end - segment.start <= 10.001  # compared in milliseconds


@pytest.mark.parametrize(("pause", "num_segments"), [(0.78, 1), (0.8, 2), (3.0, 2)])
@pytest.mark.parametrize("end", [0.3, 7.4, 100.02])
def test_a_long_pause_begins_a_segment(pause, num_segments, end):
    words = [Word("one", end - 0.2, end, 1.0), Word("two", end + pause, end + pause + 0.2, 1.0)]
    assert len(segment_words(words)) == num_segments


def test_a_segment_stops_before_it_exceeds_ten_seconds():
    words = [Word("w", 0.5 * i, 0.5 * i + 0.4, 1.0) for i in range(41)]
    assert [len(segment.words) for segment in segment_words(words)] == [20, 20, 1]


def test_write_transcript_writes_the_formats_asked_for(tmp_path):
    folder = tmp_path / "new" / "folder"
    paths = write_transcript(SHORT, folder, ["srt", "json"], stem="call v1.2")
    assert paths == [folder / "call v1.2.srt", folder / "call v1.2.json"]
    assert sorted(folder.iterdir()) == sorted(paths)
    assert paths[0].read_bytes().decode() == WRITERS["srt"](SHORT)


def test_write_transcript_replaces_an_older_file(tmp_path):
    (tmp_path / "call.txt").write_text("old and longer than the new text")
    write_transcript(SHORT, tmp_path, ["txt"], stem="call")
    assert (tmp_path / "call.txt").read_text() == "one two\nthree\n"


def test_unknown_format_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="unknown format: docx; known are txt, srt, vtt, tsv, json, ctm"):
        write_transcript(SHORT, tmp_path, ["txt", "docx"], stem="call")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_is_one_line_and_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    (tmp_path / "call.txt").write_text("old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match=r"call\.txt: cannot be written: disk full"):
        write_transcript(SHORT, tmp_path, ["txt"], stem="call")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_file_name_that_is_not_utf8_can_be_written(tmp_path):
    transcript = make_transcript(WORDS, source="caf\udce9.wav")
    (path,) = write_transcript(transcript, tmp_path, ["ctm"], stem="cafe")
    assert path.read_text().startswith("caf? 1 0.020")


ALIGNED = [
    AlignedWord(
        '"one" --', 0.02, 0.3, 0.9, [Character("O", 0.02, 0.2, 0.9), Character("N", 0.2, 0.3, 0.9)], -0.1, False
    ),
    AlignedWord("lost", 0.3, 0.3, 0.01, [Character("L", 0.3, 0.3, 0.01)], -9.0, True),
    AlignedWord("gone", 0.3, 0.3, 0.01, [Character("G", 0.3, 0.3, 0.01)], -9.0, True),
    AlignedWord("two", 0.5, 0.8, 0.9, [Character("T", 0.5, 0.8, 0.9)], -0.1, False),
]


def read_textgrid(text):
    """{tier: [(start, end, text) or (time, text)]} of Praat's long format, checked for what Praat demands."""
    tiers = {}
    for part in re.split(r"\n    item \[\d+\]:\n", text)[1:]:
        name = re.search(r'name = "(.*)"', part)[1]
        size = int(re.search(r"(?:intervals|points): size = (\d+)", part)[1])
        string = r'"((?:[^"]|"")*)"'
        rows = re.findall(rf"xmin = (\S+)\s+xmax = (\S+)\s+text = {string}", part)
        rows = rows or re.findall(rf"number = (\S+)\s+mark = {string}", part)
        assert len(rows) == size
        tiers[name] = [(*map(float, row[:-1]), row[-1].replace('""', '"')) for row in rows]
    assert len(tiers) == int(re.search(r"\nsize = (\d+)", text)[1])
    return tiers


def test_textgrid_of_an_alignment_reads_back_as_words_characters_and_missing_words():
    alignment = Alignment("text", ALIGNED, segment_words(ALIGNED), 1.0, None, "a.wav", -0.1)
    tiers = read_textgrid(WRITERS["textgrid"](alignment))
    assert tiers == {
        "words": [(0, 0.02, ""), (0.02, 0.3, '"one" --'), (0.3, 0.5, ""), (0.5, 0.8, "two"), (0.8, 1.0, "")],
        "characters": [
            (0, 0.02, ""),
            (0.02, 0.2, "O"),
            (0.2, 0.3, "N"),
            (0.3, 0.5, ""),
            (0.5, 0.8, "T"),
            (0.8, 1.0, ""),
        ],
        "missing": [(0.3, "lost"), (0.301, "gone")],
    }


@given(spoken_words())
def test_textgrid_intervals_cover_the_recording_and_none_is_empty(words):
    transcript = make_transcript(words, duration=words[-1].end + 1 if words else 1.0)
    rows = read_textgrid(WRITERS["textgrid"](transcript))["words"]
    assert rows[0][0] == 0
    assert rows[-1][1] == round(transcript.duration, 3)
    assert all(start < end for start, end, _ in rows)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(rows))


def test_ctm_has_no_blank_inside_a_word_as_written():
    alignment = Alignment("text", ALIGNED, segment_words(ALIGNED), 1.0, None, "a.wav", -0.1)
    assert [len(line.split()) for line in WRITERS["ctm"](alignment).splitlines()] == [6] * 4

"""Subtitles: every word once, lines and length within their limits, cues that do not overlap and can be read."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sewkit import UserError
from sewkit.subtitles import USUAL, Cue, SubtitleStyle, balanced_lines, lay_out
from sewkit.transcript import Transcript, Word, segment_words, write_transcript

SAYING = "the quick brown fox jumps over the lazy dog while seven cats look on from a warm roof and wonder why"
PHRASE = SAYING.split()


@st.composite
def spoken(draw: st.DrawFn) -> list[Word]:
    """Words of up to 15 letters at up to 30 letters a second, and pauses of up to three seconds."""
    words, time = [], 0.0
    for _ in range(draw(st.integers(0, 60))):
        letters = draw(st.integers(1, 15))
        start = time + draw(st.one_of(st.just(0.0), st.floats(0, 0.5), st.floats(0, 3)))
        time = start + letters / draw(st.floats(4, 30))
        words.append(Word("abcdefghijklmno"[:letters], start, time, 1.0))
    return words


def at_rate(texts: Sequence[str], letters_a_second: float, start: float = 0.0) -> list[Word]:
    words = []
    for text in texts:
        end = start + (len(text) + 1) / letters_a_second
        words.append(Word(text, start, end, 1.0))
        start = end
    return words


def laid_out(words: list[Word], style: SubtitleStyle = USUAL) -> list[Cue]:
    return lay_out(words, style, words[-1].end + 5 if words else 0.0)


@settings(max_examples=100, deadline=None)
@given(spoken(), st.integers(15, 50), st.integers(1, 3))
def test_cues_hold_each_word_once_within_all_limits_and_do_not_overlap(
    words: list[Word], width: int, count: int
) -> None:
    style = replace(USUAL, max_line_width=width, max_line_count=count)
    cues = laid_out(words, style)
    assert [text for cue in cues for line in cue.lines for text in line.split()] == [word.text for word in words]
    for cue in cues:
        assert len(cue.lines) <= count
        assert all(len(line) <= width for line in cue.lines)
        assert 0 <= cue.end - cue.start <= 7.0 + 1e-9
    for before, after in itertools.pairwise(cues):
        assert before.end <= after.start


@settings(max_examples=100, deadline=None)
@given(spoken())
def test_a_cue_too_short_to_read_stays_until_the_next_one_comes(words: list[Word]) -> None:
    cues = laid_out(words)
    for cue, following in itertools.pairwise(cues):
        num_characters = sum(map(len, cue.lines)) + len(cue.lines) - 1
        is_readable = cue.end - cue.start >= max(1.0, num_characters / 17) - 0.001
        assert is_readable or cue.end == following.start or cue.end - cue.start == pytest.approx(7.0)


@settings(max_examples=100, deadline=None)
@given(spoken())
def test_cues_appear_with_their_first_word(words: list[Word]) -> None:
    starts = {round(1000 * word.start) for word in words}
    assert all(round(1000 * cue.start) in starts for cue in laid_out(words))


def test_speech_of_usual_speed_can_be_read_throughout() -> None:
    for cue in laid_out(at_rate(PHRASE * 5, 15.0)):
        assert len(" ".join(cue.lines)) / (cue.end - cue.start) <= 17
        assert 1.0 <= cue.end - cue.start <= 7.0


def test_a_break_falls_on_the_longest_pause_of_a_text_without_punctuation() -> None:
    first, second = at_rate(PHRASE[:9], 15.0), at_rate(PHRASE[9:], 15.0, start=3.4)
    assert 0.3 < second[0].start - first[-1].end < 0.8
    cues = laid_out(first + second)
    assert " ".join(cues[0].lines).split() == PHRASE[:9]


def test_a_long_pause_ends_a_cue_however_short() -> None:
    words = [Word("yes", 0.0, 0.3, 1.0), Word("no", 1.1, 1.4, 1.0)]
    assert laid_out(words) == [Cue(["yes"], 0.0, 1.0), Cue(["no"], 1.1, 2.1)]


def test_a_break_falls_on_the_end_of_a_sentence() -> None:
    text = "So that was how it all began that year. Nobody had thought of it before it was over and done with"
    cues = laid_out(at_rate(text.split(), 14.0))
    assert cues[0].lines[-1].endswith("year.")


def test_no_word_is_left_alone_at_the_end_of_a_phrase() -> None:
    for length in range(4, len(PHRASE) + 1):
        cues = laid_out(at_rate(PHRASE[:length], 15.0))
        assert all(cue.end - cue.start >= 1.0 for cue in cues)
        assert all(len(" ".join(cue.lines).split()) > 1 for cue in cues)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 42, ["one two three"]),
        ("one two three four five six", 20, ["one two three", "four five six"]),
        ("a bb ccc dddd", 7, ["a bb", "ccc", "dddd"]),
        ("antidisestablishmentarianism is long", 10, ["antidisestablishmentarianism", "is long"]),
    ],
)
def test_lines_are_few_and_of_like_length(text: str, width: int, lines: list[str]) -> None:
    assert balanced_lines(text.split(), width) == lines


def test_the_last_cue_ends_with_the_recording() -> None:
    (cue,) = lay_out([Word("one", 0.5, 0.7, 1.0)], USUAL, 0.9)
    assert (cue.start, cue.end) == (0.5, 0.9)


def test_a_word_held_for_ever_is_on_screen_for_the_longest_time() -> None:
    (cue,) = laid_out([Word("one", 0.0, 60.0, 1.0)])
    assert cue.end == 7.0


def test_files_follow_the_style_that_is_asked_for(tmp_path: Path) -> None:
    words = at_rate(PHRASE, 15.0)
    transcript = Transcript(" ".join(PHRASE), words, segment_words(words), words[-1].end, None, "x")
    style = SubtitleStyle(max_line_width=20, max_line_count=1)
    for path in write_transcript(transcript, tmp_path, ["srt", "vtt", "txt"], stem="x", subtitles=style)[:2]:
        texts = [line for line in path.read_text().splitlines() if line[:1].isalpha() and line != "WEBVTT"]
        assert " ".join(texts).split() == PHRASE
        assert max(map(len, texts)) <= 20


@pytest.mark.parametrize("values", [{"max_line_width": 0}, {"max_seconds": 0.5}, {"characters_per_second": -1.0}])
def test_limits_that_hold_nothing_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected numbers above 0"):
        SubtitleStyle(**values)  # type: ignore[arg-type]

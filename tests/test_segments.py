"""Segments: cut in pauses, never too long, the same whatever lots the frames come in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sewkit import Segmentation, UserError
from sewkit.segments import Grid, Segmenter, Span, holds_letter
from sewkit.text import Alphabet

HOP = 320
GRID = Grid(Segmentation(shortest=1.0, longest=6.0), HOP)


@st.composite
def speech(draw: st.DrawFn) -> np.ndarray:
    """Frames with and without letters in stretches, as words and pauses are."""
    lengths = draw(st.lists(st.integers(1, draw(st.sampled_from([25, 150]))), max_size=40))
    density = draw(st.sampled_from([0.1, 0.5, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    pieces = [random.random(n) < density if index % 2 else np.zeros(n, bool) for index, n in enumerate(lengths)]
    return np.concatenate([np.zeros(0, bool), *pieces])


def spans_of(frames: np.ndarray, sizes: list[int] | None = None, grid: Grid = GRID) -> list[Span]:
    """The spans when frames come in lots of `sizes`, again and again; all at once without."""
    segmenter, spans, first = Segmenter(grid), [], 0
    while first < len(frames):
        for size in sizes or [len(frames)]:
            spans += segmenter.feed(frames[first : first + size])
            first += size
    return spans + segmenter.finish()


@settings(max_examples=200, deadline=None)
@given(speech(), st.lists(st.integers(1, 120), min_size=1, max_size=5))
def test_lots_of_any_size_give_the_same_spans(frames: np.ndarray, sizes: list[int]) -> None:
    assert spans_of(frames, sizes) == spans_of(frames)


@settings(max_examples=200, deadline=None)
@given(speech())
def test_every_letter_is_in_one_span_and_spans_lie_on_the_grid_within_their_limits(frames: np.ndarray) -> None:
    spans = spans_of(frames)
    covered = np.zeros(len(frames), int)
    for start, end in spans:
        covered[start:end] += 1
        assert start % 12 == 0
        if end is not None:
            assert end % 12 == 0
            assert GRID.shortest <= end - start <= GRID.longest
        assert (len(frames) if end is None else end) - start <= GRID.longest + GRID.clearance
        assert frames[start:end].any()
    assert covered.max(initial=0) <= 1
    assert (covered[frames] == 1).all()


@settings(max_examples=200, deadline=None)
@given(speech())
def test_a_cut_is_in_a_pause_or_there_was_none(frames: np.ndarray) -> None:
    for start, end in spans_of(frames):
        if end is not None and frames[end - GRID.clearance : end + GRID.clearance].any():
            assert end - start > GRID.longest // 2
            for place in range(start + GRID.shortest, start + GRID.longest + 1, 12):
                said_something = frames[start:place].any()
                assert not said_something or frames[place - GRID.clearance : place + GRID.clearance].any()


def test_a_forced_cut_is_where_letters_are_farthest() -> None:
    frames = np.ones(400, bool)
    frames[200:210] = frames[230:249] = False  # the second gap is wider, and has a place of the grid at 240
    assert spans_of(frames)[0] == Span(0, 240)


@pytest.mark.parametrize("sizes", [[1], [7], [400]])
def test_a_forced_cut_waits_for_the_frames_that_may_be_near(sizes: list[int]) -> None:
    frames = np.ones(400, bool)
    frames[200:210] = frames[290:312] = False
    assert spans_of(frames, sizes) == [Span(0, 300), Span(300, None)]


def test_the_letters_just_behind_a_forced_cut_are_a_segment() -> None:
    frames = np.arange(400) < 303
    assert spans_of(frames) == [Span(0, 300), Span(300, 348)]


def test_silence_is_in_no_span_and_the_open_start_moves_along_with_it() -> None:
    segmenter = Segmenter(GRID)
    for _ in range(60):
        assert segmenter.feed(np.zeros(500, bool)) == []
    assert 30_000 - 2 * GRID.clearance < segmenter.start <= 30_000 - GRID.clearance
    assert segmenter.finish() == []
    assert segmenter.feed(np.ones(1, bool)) == []
    (last,) = segmenter.finish()
    assert 30_000 - GRID.clearance - 12 < last.start <= 30_000 - GRID.clearance


def test_windows_settle_every_frame_once_with_the_lookahead_behind_it() -> None:
    for segmentation in (Segmentation(), Segmentation(window=1.0, hop=0.2, lookahead=0.7), Segmentation(hop=2.4)):
        grid = Grid(segmentation, HOP)
        settled = 0
        for index in range(50):
            window = grid.window(index)
            assert window.start <= settled <= window.settled == max(0, window.end - grid.lookahead)
            assert window.end == (index + 1) * grid.hop
            settled = window.settled


@pytest.mark.parametrize(
    "values",
    [
        {"hop": 0.0},
        {"pause": -0.1},
        {"window": 1.0, "hop": 0.9},
        {"window": 31.0},
        {"longest": 2.0},
        {"longest": 31.0},
        {"letter": 1.0},
        {"shortest": float("nan")},
    ],
)
def test_values_that_do_not_fit_together_are_refused_in_one_line(values: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected positive seconds") as refusal:
        Segmentation(**values)
    assert "\n" not in str(refusal.value)


def test_a_frame_holds_a_letter_by_the_probability_of_all_letters_together() -> None:
    alphabet = Alphabet(("<pad>", "<s>", "|", "A", "B", " "), special=frozenset({1}))
    shares = [
        [0.90, 1e-9, 0.04, 0.03, 0.03, 1e-9],
        [0.50, 0.15, 0.20, 0.06, 0.05, 0.04],
        [0.10, 1e-9, 1e-9, 1e-9, 0.90, 1e-9],
    ]
    log_probs = np.log(np.array(shares))
    np.testing.assert_array_equal(holds_letter(log_probs + 3, alphabet, 0.1), [False, True, True])
    assert holds_letter(np.zeros((0, 6)), alphabet, 0.1).shape == (0,)

"""Long recordings: the kept frames of all chunks are the recording's frames, each exactly once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sewkit.chunks import ChunkPlan, quiet_seam, split
from sewkit.config import PUBLISHED
from sewkit.lengths import num_frames

LAYERS = PUBLISHED["sew-tiny"].conv_layers
PLAN = ChunkPlan(chunk=10 * 3840, margin=2 * 3840, hop=320)


def blocks_of(samples: np.ndarray, size: int) -> list[np.ndarray]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200_000), st.integers(1_000, 90_000))
def test_kept_frames_are_the_recordings_frames_once_each(num_samples: int, block_size: int) -> None:
    samples = np.arange(num_samples, dtype=np.float32)
    kept: list[int] = []
    for chunk in split(blocks_of(samples, block_size), PLAN):
        first_frame = int(chunk.samples[0]) // PLAN.hop
        frames = num_frames(len(chunk.samples), LAYERS)
        end = frames if chunk.keep_to is None else chunk.keep_to
        assert end <= frames
        kept += range(first_frame + chunk.keep_from, first_frame + end)
    assert kept == list(range(num_frames(num_samples, LAYERS)))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200_000))
def test_chunks_start_on_whole_windows_of_every_squeeze_factor(num_samples: int) -> None:
    samples = np.arange(num_samples, dtype=np.float32)
    for chunk in split(blocks_of(samples, 16_000), PLAN):
        start_frame = int(chunk.samples[0]) // PLAN.hop
        assert int(chunk.samples[0]) % PLAN.hop == 0
        assert all(start_frame % factor == 0 and chunk.keep_from % factor == 0 for factor in (1, 2, 3, 4))


def test_kept_frames_have_the_margin_of_sound_on_both_sides() -> None:
    chunks = list(split(blocks_of(np.arange(200_000, dtype=np.float32), 16_000), PLAN))
    assert len(chunks) > 3
    for chunk in chunks[1:]:
        assert chunk.keep_from * PLAN.hop == PLAN.margin
    for chunk in chunks[:-1]:
        assert chunk.keep_to is not None
        assert len(chunk.samples) - chunk.keep_to * PLAN.hop >= PLAN.margin


def test_a_clip_up_to_the_chunk_length_is_run_in_one_piece() -> None:
    assert len(list(split([np.zeros(PLAN.chunk, np.float32)], PLAN))) == 1
    assert len(list(split([np.zeros(PLAN.chunk + 1, np.float32)], PLAN))) == 2


def test_the_plan_of_a_model_is_about_thirty_seconds_with_three_of_margin() -> None:
    plan = ChunkPlan.for_model(PUBLISHED["w2v2-base"])
    assert plan.hop == 320
    assert plan.chunk == 30 * 16_000
    assert 2.8 < plan.margin / 16_000 < 3


@pytest.mark.parametrize(
    ("letters", "seam"),
    [
        ("......", 3),  # nobody speaks: the middle
        ("x....x", 3),
        ("..x...", 6),
        ("x.x..x", 4),
        ("xxxxxx", 3),
        ("", 0),
    ],
)
def test_neighbours_part_where_letters_are_farthest(letters, seam):
    assert quiet_seam(np.array([letter == "x" for letter in letters], dtype=bool)) == seam

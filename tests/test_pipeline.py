"""Recordings on their way: in order, side by side, bounded, and gone when the caller stops."""

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sewkit
from sewkit import pipeline
from sewkit.chunks import ChunkPlan
from sewkit.pieces import Piece, Recording, Task
from sewkit.pipeline import Batching, outcomes
from sewkit.readahead import RECORDINGS_AHEAD, Reading, read_ahead

RATE = 16_000
PLAN = ChunkPlan(chunk=12 * 320, margin=0, hop=320)


def counting(run=None) -> Task:
    """A task that adds up the samples of a recording, found in whatever order its chunks come."""

    def sizes(waveforms: list[np.ndarray]) -> list[np.ndarray]:
        if run is not None:
            run(waveforms)
        return [np.array(len(waveform)) for waveform in waveforms]

    def keep(piece: Piece, output: np.ndarray) -> int:
        return int(output)

    def finish(recording: Recording) -> int:
        return sum(recording.pieces())

    return Task(PLAN, sizes, keep, finish)


def sounds(lengths: list[int]) -> Iterator[np.ndarray]:
    return (np.zeros(length, np.float32) for length in lengths)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sewkit-")]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_come_in_the_order_of_the_sources(workers: int, noise: np.random.Generator) -> None:
    lengths = [int(length) for length in noise.integers(1, 20_000, 200)]
    done: list[Piece] = []
    made = outcomes(sounds(lengths), counting(), Batching(8_000, workers), done.append)
    assert list(made) == lengths
    assert len(done) == sum(-(-length // PLAN.chunk) for length in lengths)
    assert our_threads() == []


def test_batches_run_side_by_side() -> None:
    """Two that wait for each other would wait for ever if one ran after the other."""
    meeting = threading.Barrier(2, timeout=20)
    made = outcomes(sounds([3_000] * 40), counting(lambda _: meeting.wait()), Batching(3_000, 2), lambda _: None)
    assert list(made) == [3_000] * 40


def test_one_batch_runs_in_the_callers_thread_with_all_its_threads() -> None:
    names: list[str] = []
    task = counting(lambda _: names.append(threading.current_thread().name))
    assert list(outcomes(sounds([100]), task, Batching(8_000, 2), lambda _: None)) == [100]
    assert names == [threading.current_thread().name]


def test_each_worker_has_its_share_of_the_threads_and_the_caller_gets_them_back() -> None:
    before, seen = torch.get_num_threads(), set()
    torch.set_num_threads(4)
    try:
        task = counting(lambda _: seen.add((threading.current_thread().name[:6], torch.get_num_threads())))
        assert len(list(outcomes(sounds([3_000] * 20), task, Batching(3_000, 2), lambda _: None))) == 20
        assert seen == {("sewkit", 2)}
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as pool:  # a new thread begins with the number that was last set anywhere
            assert pool.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)


def test_however_many_recordings_few_are_read_before_the_first_result_is_taken() -> None:
    begun: list[int] = []

    def sources() -> Iterator[np.ndarray]:
        for number in range(10_000):
            begun.append(number)
            yield np.zeros(3_000, np.float32)

    batching = Batching(3_000, 2)
    made = outcomes(sources(), counting(), batching, lambda _: None)
    next(made)
    assert len(begun) <= 2 * batching.lookahead // 3_000 + RECORDINGS_AHEAD + 2
    made.close()
    assert our_threads() == []


def test_however_long_a_recording_little_of_it_is_read_ahead() -> None:
    reading: Reading[int] = read_ahead([np.zeros(1_000 * PLAN.chunk, np.float32)], PLAN, 2)
    recording, lots = next(reading)
    for taken in range(1, 6):
        next(lots)
        assert recording.num_samples <= (2 * taken + 5) * PLAN.chunk + 10 * RATE  # 10 s: a block
    reading.close()


@pytest.mark.parametrize("source", ["array", "file"])
def test_closing_early_ends_all_threads_and_files(source: str, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.zeros(40 * PLAN.chunk, np.float32), RATE)
    sources = [np.zeros(40 * PLAN.chunk, np.float32) if source == "array" else path] * 30
    made = outcomes(sources, counting(), Batching(8_000, 2), lambda _: None)
    next(made)
    assert our_threads()
    made.close()  # an open file that is forgotten is a warning, and so an error here
    assert our_threads() == []


def test_an_error_in_the_middle_stands_in_its_place(tmp_path: Path) -> None:
    broken = np.zeros(30 * PLAN.chunk, np.float32)
    broken[-1] = np.nan
    good = np.zeros(3_000, np.float32)
    sources = [good, broken, good, tmp_path / "missing.wav", good]
    made = list(outcomes(sources, counting(), Batching(8_000, 2), lambda _: None))
    assert [one if isinstance(one, int) else type(one) for one in made] == [
        3_000,
        sewkit.AudioError,
        3_000,
        sewkit.AudioError,
        3_000,
    ]


@pytest.mark.parametrize("bad", ["model", "source", "sources"])
def test_what_goes_wrong_otherwise_is_raised_and_ends_all_threads(bad: str) -> None:
    def fail(waveforms: list[np.ndarray]) -> None:
        if bad == "model" and len(waveforms[0]) == 1_234:
            raise RuntimeError("out of memory")

    def sources() -> Iterator[np.ndarray]:
        yield from sounds([3_000] * 30)
        if bad == "sources":
            raise RuntimeError("no more")
        yield 17 if bad == "source" else np.zeros(1_234, np.float32)  # type: ignore[misc]
        yield from sounds([3_000] * 30)

    with pytest.raises(TypeError if bad == "source" else RuntimeError):
        list(outcomes(sources(), counting(fail), Batching(3_000, 2), lambda _: None))
    assert our_threads() == []


def test_one_file_object_may_be_named_twice(tmp_path: Path) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(5 * PLAN.chunk, np.float32), RATE, format="WAV")
    made = outcomes([file, file, file], counting(), Batching(8_000, 2), lambda _: None)
    assert list(made) == [5 * PLAN.chunk] * 3


def test_transcripts_of_many_files_equal_those_one_by_one(
    toy: sewkit.Recognizer, noise: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 8 and 44.1 kHz, mono and stereo, from below a frame to more than a chunk."""
    paths = []
    for number, seconds in enumerate([0.5, 2.0, 0.01, 40.0, 1.0, 3.3, 0.7, 1.9] * 2):
        rate, channels = ((8_000, 1), (44_100, 2), (16_000, 1))[number % 3]
        paths.append(tmp_path / f"{number}.flac")
        soundfile.write(paths[-1], noise.uniform(-0.3, 0.3, (int(seconds * rate), channels)), rate)
    asr = sewkit.Recognizer(toy.loaded, toy.runtime, "toy", batch_seconds=2.0)
    one_by_one = [asr.transcribe(path) for path in paths]
    for workers in (1, 3):
        asr.workers = workers
        together = list(asr.transcribe_batch(paths))
        assert [(each.text, each.source) for each in together] == [(each.text, each.source) for each in one_by_one]


def test_a_caller_who_stops_at_an_error_leaves_no_thread(toy: sewkit.Recognizer, tmp_path: Path) -> None:
    transcripts = toy.transcribe_batch([np.zeros(RATE, np.float32), tmp_path / "missing.wav"] * 20)
    assert next(transcripts).duration == 1.0
    with pytest.raises(sewkit.AudioError):
        next(transcripts)
    assert our_threads() == []


def test_clips_share_a_batch_only_with_clips_of_like_length() -> None:
    seen: list[list[int]] = []
    task = counting(lambda waveforms: seen.append([len(waveform) for waveform in waveforms]))
    assert list(outcomes(sounds([1_000, 3_000, 900, 2_900]), task, Batching(8_000), lambda _: None))
    assert seen == [[3_000, 2_900], [1_000, 900]]


def test_the_lookahead_grows_with_the_workers() -> None:
    assert Batching(100, 1).lookahead == pipeline.LOOKAHEAD_BATCHES * 100
    assert Batching(100, 20).lookahead == 4_000

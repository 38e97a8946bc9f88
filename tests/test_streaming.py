"""Live transcription: finals are those of the recording whatever the blocks, partials are cheap, memory is bounded."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sewkit
from sewkit import Compute, Final, Partial, Recognizer, Segmentation
from sewkit.checkpoint import LoadedModel
from sewkit.runtime.pytorch import TorchRuntime
from sewkit.testing import TOYS, toy_model
from sewkit.text import Alphabet

RATE, HOP, FIELD = 16_000, 320, 400
QUICK = Segmentation(window=1.92, hop=0.48, lookahead=0.48, pause=0.6, shortest=0.96, longest=4.8)


class LoudnessRuntime:
    """Hears a letter, by its loudness, in each frame that has sound, and a space behind each word."""

    config = TOYS["sew"]

    def __init__(self) -> None:
        self.num_heard = 0
        self.longest = 0

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        return [self._logits(waveform) for waveform in waveforms]

    def _logits(self, waveform: np.ndarray) -> np.ndarray:
        self.num_heard += len(waveform)
        self.longest = max(self.longest, len(waveform))
        if len(waveform) < FIELD:
            return np.zeros((0, 32), np.float32)
        loudness = np.abs(np.lib.stride_tricks.sliding_window_view(waveform, FIELD)[::HOP]).max(1)
        ids = np.where(loudness > 0.05, 5 + (loudness * 25).astype(int), 0)
        ids[1:][(ids[1:] == 0) & (ids[:-1] > 0)] = 4
        return 9 * np.eye(32, dtype=np.float32)[ids]


def loud_words(num_seconds: float, seed: int) -> np.ndarray:
    """Words of one to four letters of 0.1 to 0.2 s, each of one loudness, and pauses, some of them long."""
    random, pieces = np.random.default_rng(seed), [np.zeros(1600)]
    while sum(map(len, pieces)) < num_seconds * RATE:
        pieces += [np.full(random.integers(1600, 3200), random.uniform(0.1, 0.9)) for _ in range(random.integers(1, 5))]
        pieces.append(np.zeros(random.integers(1600, 8000) if random.random() < 0.8 else 24_000))
    return np.concatenate(pieces)[: int(num_seconds * RATE)].astype(np.float32)


@pytest.fixture
def loud() -> Recognizer:
    return Recognizer(LoadedModel(toy_model("sew"), Alphabet.english()), LoudnessRuntime(), "loud")


def blocks_of(samples: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    blocks, first = [], 0
    for size in itertools.cycle(sizes):
        if first >= len(samples):
            return blocks
        blocks.append(samples[first : first + size])
        first += size
    return blocks


def events_of(asr: Recognizer, blocks: Sequence[np.ndarray], **options) -> list[Partial | Final]:
    with asr.stream(**options) as stream:
        return [event for block in blocks for event in stream.feed(block)] + stream.finish()


def finals_of(asr: Recognizer, blocks: Sequence[np.ndarray], **options) -> list[Final]:
    return [event for event in events_of(asr, blocks, **options) if isinstance(event, Final)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 20), st.lists(st.integers(1, 50_000), min_size=1, max_size=4))
def test_finals_are_the_words_of_the_recording_for_blocks_of_any_size(
    seed: int, seconds: float, sizes: list[int]
) -> None:
    asr = Recognizer(LoadedModel(toy_model("sew"), Alphabet.english()), LoudnessRuntime(), "loud")
    samples = loud_words(seconds + 0.1, seed)
    sizes = [max(size, len(samples) // 200) for size in sizes]
    finals = finals_of(asr, blocks_of(samples, sizes), segmentation=QUICK)
    transcript = asr.transcribe(samples, segmentation=QUICK)
    assert [word for final in finals for word in final.words] == transcript.words
    assert [final.text for final in finals if final.words] == [segment.text for segment in transcript.segments]
    assert transcript.duration == len(samples) / RATE


def test_the_finals_of_a_real_model_are_the_words_of_the_recording_to_the_last_bit(toy: Recognizer) -> None:
    samples = loud_words(12.0, 3) * np.sin(np.arange(12 * RATE) ** 1.1 / 9).astype(np.float32)
    transcript = toy.transcribe(samples, segmentation=QUICK)
    assert len(transcript.segments) > 2
    for size in (320, 1111, 16_000, len(samples)):
        finals = finals_of(toy, blocks_of(samples, [size]), segmentation=QUICK)
        assert [word for final in finals for word in final.words] == transcript.words


def test_words_have_the_times_of_the_signal_and_lie_within_their_final(loud: Recognizer) -> None:
    samples = np.zeros(20 * RATE, np.float32)
    for start in (3.0, 11.0, 12.0, 19.7):  # the last one comes behind the last whole window
        samples[int(start * RATE) : int((start + 0.2) * RATE)] = 0.5
    finals = finals_of(loud, blocks_of(samples, [800]), segmentation=QUICK)
    words = [word for final in finals for word in final.words]
    np.testing.assert_allclose([word.start for word in words], [3.0, 11.0, 12.0, 19.7], atol=0.03)
    np.testing.assert_allclose([word.end for word in words], [3.2, 11.2, 12.2, 19.9], atol=0.03)
    for before, after in itertools.pairwise(finals):
        assert before.end <= after.start
    for final in finals:
        assert all(final.start <= word.start < word.end <= final.end for word in final.words)


def test_a_final_comes_within_the_stated_time_of_its_last_word(loud: Recognizer) -> None:
    samples = loud_words(60.0, 5)
    worst = QUICK.pause + 0.24 + QUICK.lookahead + QUICK.hop
    heard, num_finals = 0, 0
    with loud.stream(segmentation=QUICK) as stream:
        for block in blocks_of(samples, [320]):
            heard += len(block)
            for event in stream.feed(block):
                if isinstance(event, Final) and event.end - event.start > QUICK.shortest + 0.24:
                    num_finals += 1
                    following = samples[int(event.words[-1].end * RATE) + FIELD :][: int(QUICK.pause * RATE)]
                    if not following.any():  # not a forced cut
                        assert heard / RATE - event.words[-1].end <= worst
    assert num_finals > 5


def test_partials_are_the_words_heard_since_the_last_final(loud: Recognizer) -> None:
    samples = loud_words(60.0, 9)
    truth = loud.transcribe(samples, segmentation=QUICK).words
    num_partials, first = 0, 0
    for event in events_of(loud, blocks_of(samples, [1600]), segmentation=QUICK):
        if isinstance(event, Final):
            first += len(event.words)
            continue
        num_partials += 1
        spoken = truth[first : first + len(event.words)]
        assert [(word.text, word.start) for word in event.words[:-1]] == [
            (word.text, word.start) for word in spoken[:-1]
        ]
        assert spoken[-1].text.startswith(event.words[-1].text[:-1])  # of a letter just begun, loudness may be another
    assert num_partials > 50


def test_a_beam_search_decodes_finals_as_in_the_recording(toy: Recognizer) -> None:
    samples = loud_words(8.0, 3) * np.sin(np.arange(8 * RATE) ** 1.1 / 9).astype(np.float32)
    search = toy.beam_search(hotwords=["ABC"])
    finals = finals_of(toy, blocks_of(samples, [5000]), segmentation=QUICK, decoder=search)
    transcript = toy.transcribe(samples, segmentation=QUICK, decoder=search)
    assert [word for final in finals for word in final.words] == transcript.words != []


def test_stable_words_stay_until_the_final(loud: Recognizer) -> None:
    told: list[str] = []
    num_stable = 0
    for event in events_of(loud, blocks_of(loud_words(60.0, 8), [1600]), segmentation=QUICK):
        texts = [word.text for word in event.words]
        if isinstance(event, Final):  # of all the words told, or of the first
            assert told[: len(texts)] == texts[: len(told)]
            told = told[len(texts) :]
        else:
            assert texts[: len(told)] == told
            told = texts[: event.stable]
            num_stable += len(told)
    assert num_stable > 50


def test_there_is_at_most_one_partial_a_block_and_none_that_says_nothing_new(loud: Recognizer) -> None:
    with loud.stream(segmentation=QUICK) as stream:
        last: tuple[str, int] | None = None
        for block in blocks_of(loud_words(30.0, 2), [4000]):
            events = stream.feed(block)
            partials = [event for event in events if isinstance(event, Partial)]
            assert len(partials) <= 1
            assert all(isinstance(event, Final) for event in events[: len(events) - len(partials)])
            if len(events) > len(partials):
                last = None
            for partial in partials:
                assert (partial.text, partial.stable) != last
                last = (partial.text, partial.stable)


def test_the_sound_is_heard_window_by_hop_times_and_once_more_for_finals(loud: Recognizer) -> None:
    samples = loud_words(120.0, 4)
    events_of(loud, blocks_of(samples, [1000]), segmentation=QUICK)
    assert isinstance(loud.runtime, LoudnessRuntime)
    assert loud.runtime.num_heard <= (QUICK.window / QUICK.hop + 1) * len(samples)
    assert loud.runtime.longest <= QUICK.longest * RATE


def test_an_hour_is_held_no_longer_than_a_segment(loud: Recognizer) -> None:
    hour = np.tile(loud_words(60.0, 1), 60)
    most = 0
    with loud.stream(segmentation=QUICK) as stream:
        for block in blocks_of(hour, [16_000]):
            stream.feed(block)
            held = sum(len(piece) for piece in stream._sound._pieces)
            most = max(most, held, 320 * len(stream._draft._settled.ids), 320 * len(stream._segmenter._letters))
        assert stream.seconds == 3600
    assert most <= (QUICK.longest + QUICK.window + QUICK.hop) * RATE


def test_silence_has_no_events(loud: Recognizer) -> None:
    assert events_of(loud, [np.zeros(10 * RATE, np.float32)]) == []
    assert events_of(loud, []) == []
    transcript = loud.transcribe(np.zeros(RATE, np.float32), segmentation=QUICK)
    assert (transcript.text, transcript.segments) == ("", [])


def test_int16_and_other_rates_are_taken(loud: Recognizer) -> None:
    samples = loud_words(8.0, 6)
    expected = finals_of(loud, [samples], segmentation=QUICK)
    whole = (samples * 32767).astype(np.int16)
    assert [final.text for final in finals_of(loud, blocks_of(whole, [999]), segmentation=QUICK)] == [
        final.text for final in expected
    ]
    tripled = np.repeat(samples, 3)
    assert len(finals_of(loud, blocks_of(tripled, [999]), segmentation=QUICK, sample_rate=48_000)) == len(expected)


def test_the_caller_may_use_its_block_again(loud: Recognizer) -> None:
    samples = loud_words(8.0, 6)
    buffer = np.zeros(1000, np.float32)
    with loud.stream(segmentation=QUICK) as stream:
        finals = []
        for block in blocks_of(samples, [1000]):
            buffer[:] = block
            finals += [event for event in stream.feed(buffer) if isinstance(event, Final)]
            buffer[:] = 0.7
        finals += stream.finish()
    assert finals == finals_of(loud, [samples], segmentation=QUICK)


def test_windows_are_heard_at_the_point_of_the_segmentation_and_finals_at_that_of_the_call() -> None:
    points: list[Compute] = []

    class Recorder(LoudnessRuntime):
        def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
            points.append(compute)
            return super().logits(waveforms, compute)

    config = TOYS["sew"].replace(squeeze_factor=2)
    assert Recorder.config == config
    asr = Recognizer(LoadedModel(toy_model("sew"), Alphabet.english()), Recorder(), "recorder")
    finals_of(asr, [loud_words(10.0, 1)], segmentation=QUICK)
    assert set(points) == {Compute(squeeze=2)}
    with pytest.raises(sewkit.UserError, match="squeeze"):
        asr.stream(segmentation=Segmentation(compute=Compute(squeeze=7)))


def test_a_stream_that_ended_takes_nothing_more(loud: Recognizer) -> None:
    stream = loud.stream()
    stream.finish()
    for call in (stream.finish, lambda: stream.feed(np.zeros(1, np.float32))):
        with pytest.raises(sewkit.UserError, match="this stream has ended; open another one"):
            call()
    with loud.stream() as left:
        pass
    with pytest.raises(sewkit.UserError, match="has ended"):
        left.feed(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (np.zeros((4, 2), np.float32), "one channel"),
        (np.array([0.0, np.nan], np.float32), "NaN"),
        (np.zeros(4, np.int64), "samples of type int64"),
    ],
)
def test_blocks_that_are_no_sound_are_refused(loud: Recognizer, block: np.ndarray, problem: str) -> None:
    with loud.stream() as stream, pytest.raises(sewkit.AudioError, match=problem):
        stream.feed(block)


def test_a_rate_that_no_recording_has_is_refused(loud: Recognizer) -> None:
    with pytest.raises(sewkit.AudioError, match="a sample rate of 12 Hz; expected one from 1000"):
        loud.stream(sample_rate=12)


def test_a_model_without_letters_opens_no_stream() -> None:
    model = toy_model("sew")
    silent = Recognizer(LoadedModel(model), TorchRuntime(model, torch.device("cpu")), "silent")
    with pytest.raises(sewkit.UserError, match="silent has no letters"):
        silent.stream()


def test_events_as_json(loud: Recognizer) -> None:
    samples = np.zeros(4 * RATE, np.float32)
    samples[RATE : RATE + 8000] = 0.5
    events = [event.to_dict() for event in events_of(loud, blocks_of(samples, [1600]), segmentation=QUICK)]
    assert events[0].keys() == {"type", "text", "stable", "words"}
    assert events[-1].keys() == {"type", "text", "start", "end", "words"}
    assert events[-1]["type"] == "final"
    assert events[-1]["words"][0].keys() == {"word", "start", "end", "confidence"}
    assert events[-1]["start"] <= events[-1]["words"][0]["start"]


def test_a_recording_that_breaks_off_is_reported_and_the_others_are_done(loud: Recognizer) -> None:
    bad: list[sewkit.AudioError] = []
    samples = loud_words(3.0, 1)
    sources = [samples, b"no sound at all", samples]
    done = list(loud.transcribe_batch(sources, segmentation=QUICK, on_error=bad.append))
    assert len(done) == 2
    assert done[0].words == done[1].words != []
    assert [error.source for error in bad] == ["<bytes>"]

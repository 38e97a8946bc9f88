"""What shares the model: the same words as the library's, short recordings before long ones, refusals, cancelling."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from toy_load import PER_SECOND, RUNGS

from sewkit import Compute, Recognizer
from sewkit.audio import SAMPLE_RATE
from sewkit.serve.costs import Cost, Costs
from sewkit.serve.engine import BusyError, Engine, Wish
from sewkit.serve.governor import Governor
from sewkit.serve.metrics import Metrics
from sewkit.serve.settings import Settings
from sewkit.testing import synthetic_speech

QUICK = 0.25
"""The runtime below takes so much of what the toy's points cost."""


class Sleeping:
    """A runtime that takes its time and hears nothing; it keeps what it was asked for."""

    def __init__(self, asr: Recognizer):
        self.config = asr.config
        self.batches: list[tuple[list[int], Compute | None]] = []
        self.fails_on: int | None = None

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        lengths = [len(waveform) for waveform in waveforms]
        self.batches.append((lengths, compute))
        if self.fails_on in lengths:
            raise MemoryError("too long for this device")
        time.sleep(QUICK * PER_SECOND[compute] * max(lengths) * len(lengths) / SAMPLE_RATE)
        return [np.zeros((length // 320, self.config.vocab_size), np.float32) for length in lengths]

    encode = class_scores = logits


@pytest.fixture
def sleeping(stochastic: Recognizer) -> Recognizer:
    return Recognizer(stochastic.loaded, Sleeping(stochastic), "sleeping")


def run(asr: Recognizer, script: Callable[[Engine], Awaitable[Any]], rungs: Sequence[Compute] = (), **settings: Any):
    """The script's result, with an engine that works; `rungs` in place of a calibration, at the cost of `Sleeping`."""

    async def all_of_it() -> Any:
        engine = Engine(asr, Settings(calibration_runs=1, **settings), Metrics())
        if rungs:
            costs = Costs({point: Cost(0.001, QUICK * PER_SECOND[point]) for point in rungs})
            governor = Governor(rungs, costs, engine.settings.target, engine.batch_seconds, window=2.0, hold=1.0)
            engine._make_governor = lambda: governor
        await engine.start()
        try:
            return await asyncio.wait_for(script(engine), 60)
        finally:
            await engine.close()

    return asyncio.run(all_of_it())


def wish(engine: Engine, **facts: Any) -> Wish:
    return Wish(engine.loop.time(), **facts)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


@pytest.mark.parametrize("compute", [Compute(1), Compute(3, 2, 2)])
def test_recordings_that_share_batches_have_the_words_of_the_library(stochastic, compute):
    lengths = [16_000, 17_000, 15_500, 48_000, 50_000, 16_500, 700_000]
    sounds = [synthetic_speech(length, seed) for seed, length in enumerate(lengths)]

    async def script(engine):
        return await asyncio.gather(*(engine.transcribe(sound, wish(engine, compute=compute)) for sound in sounds))

    outcomes = run(stochastic, script, max_wait_ms=1e6)
    for sound, outcome in zip(sounds, outcomes, strict=True):
        alone = stochastic.transcribe(sound, compute=compute)
        assert outcome.transcript.text == alone.text
        assert [word.start for word in outcome.transcript.words] == [word.start for word in alone.words]
        confidences = [word.confidence for word in outcome.transcript.words]
        assert confidences == pytest.approx([word.confidence for word in alone.words], abs=2e-4)
        assert outcome.transcript.compute == alone.compute
        assert outcome.points == {str(compute): pytest.approx(len(sound) / SAMPLE_RATE, abs=1e-3)}


def test_short_recordings_share_a_batch(sleeping):
    async def script(engine):
        await asyncio.gather(*(engine.transcribe(silence(1.0), wish(engine)) for _ in range(12)))

    run(sleeping, script, RUNGS)
    sizes = [len(lengths) for lengths, _ in sleeping.runtime.batches]
    assert sum(sizes) == 12
    assert max(sizes) > 5


def test_nobody_waits_behind_an_hour_of_audio(sleeping):
    async def script(engine):
        hour = asyncio.create_task(engine.transcribe(np.zeros(3600 * SAMPLE_RATE, np.float32), wish(engine)))
        await asyncio.sleep(0.3)
        times = []
        for _ in range(5):
            begun = engine.loop.time()
            await engine.transcribe(silence(1.0), wish(engine))
            times.append(engine.loop.time() - begun)
        assert not hour.done()
        hour.cancel()
        return times

    times = run(sleeping, script, RUNGS, target_p95_ms=1000)
    longest_chunk = 30 * QUICK * PER_SECOND[RUNGS[-1]]
    assert max(times) < 2 * longest_chunk + 0.25, "at most the chunk that runs, and its own time"


def test_chunks_of_long_recordings_do_not_hold_the_model_for_more_than_half_the_objective(sleeping):
    async def script(engine):
        await engine.transcribe(silence(100.0), wish(engine))

    run(sleeping, script, RUNGS, target_p95_ms=300)
    whole = [compute for lengths, compute in sleeping.runtime.batches if max(lengths) > 25 * SAMPLE_RATE]
    assert whole
    assert all(30 * QUICK * PER_SECOND[compute] <= 0.15 for compute in whole)


def test_limits_of_a_request_choose_its_point_even_when_idle(sleeping):
    async def script(engine):
        fixed = await engine.transcribe(silence(4.0), wish(engine, compute=Compute(2)))
        hasty = await engine.transcribe(silence(4.0), wish(engine, latency=0.020))
        free = await engine.transcribe(silence(4.0), wish(engine))
        return fixed.point, hasty.point, free.point

    # Of the four points, four seconds take 41, 27, 17 and 11 ms.
    assert run(sleeping, script, RUNGS) == ("squeeze=2", "squeeze=3", "squeeze=1")


def test_under_overload_the_point_falls_and_comes_back(sleeping):
    async def script(engine):
        calls = []
        for _ in range(75):  # twice what the dearest point can do, for 1.5 seconds
            calls.append(asyncio.create_task(engine.transcribe(silence(4.0), wish(engine))))
            await asyncio.sleep(0.020)
        outcomes = await asyncio.gather(*calls)
        await asyncio.sleep(4.5)
        after = await engine.transcribe(silence(4.0), wish(engine))
        return [outcome.point for outcome in outcomes], after.point

    points, after = run(sleeping, script, RUNGS, target_p95_ms=500)
    assert len(set(points)) > 1
    assert after == str(RUNGS[-1])


def test_refusals_come_only_beyond_the_cheapest_point(sleeping):
    async def script(engine):
        refused = []

        async def call():
            try:
                await engine.transcribe(silence(10.0), wish(engine))
            except BusyError as error:
                refused.append((error.retry_after, engine.governor.wait(engine._queue())))

        await asyncio.gather(*(call() for _ in range(60)))
        return refused

    refused = run(sleeping, script, RUNGS, target_p95_ms=100, max_wait_ms=500)
    cheapest = 10 * QUICK * PER_SECOND[RUNGS[0]]
    assert 0 < len(refused) < 60
    assert all(retry >= 1 for retry, _ in refused)
    assert all(wait + cheapest + 0.05 > 0.5 for _, wait in refused), "there was that much to do at the cheapest point"
    used = {compute for _, compute in sleeping.runtime.batches[1:]}
    assert used == {RUNGS[0]}, "whoever came before ran at the cheapest"


def test_with_a_fixed_point_everything_runs_there(sleeping):
    async def script(engine):
        assert engine.governor.rungs == (Compute(2),)
        await asyncio.gather(*(engine.transcribe(silence(2.0), wish(engine)) for _ in range(10)))

    run(sleeping, script, compute="squeeze=2", max_wait_ms=1e6)
    assert {compute for _, compute in sleeping.runtime.batches} == {Compute(2)}


def test_a_batch_that_fails_costs_only_who_is_at_fault(sleeping):
    async def script(engine):
        sleeping.runtime.fails_on = int(1.1 * SAMPLE_RATE)
        lengths = (1.0, 1.1, 1.0, 1.05)
        return await asyncio.gather(
            *(engine.transcribe(silence(seconds), wish(engine)) for seconds in lengths), return_exceptions=True
        )

    kinds = [type(outcome).__name__ for outcome in run(sleeping, script, RUNGS)]
    assert kinds == ["Outcome", "MemoryError", "Outcome", "Outcome"]


def test_what_is_cancelled_is_not_computed(sleeping):
    async def script(engine):
        first = asyncio.create_task(engine.transcribe(silence(20.0), wish(engine)))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(engine.transcribe(silence(3.0), wish(engine))) for _ in range(5)]
        await asyncio.sleep(0.02)
        for task in others:
            task.cancel()
        await first
        await asyncio.sleep(0.3)
        assert engine.num_requests == 0

    run(sleeping, script, RUNGS)
    assert [lengths for lengths, _ in sleeping.runtime.batches] == [[20 * SAMPLE_RATE]]


def test_live_sound_takes_turns_with_recordings_and_hears_what_the_library_hears(stochastic):
    sound = synthetic_speech(6 * SAMPLE_RATE, 3)

    async def script(engine):
        def listen():
            stream = engine.hearing.recognizer.stream(compute=Compute(2))
            events = [
                event for first in range(0, len(sound), 8000) for event in stream.feed(sound[first : first + 8000])
            ]
            return [event.to_dict() for event in [*events, *stream.finish()]]

        recording = asyncio.create_task(engine.transcribe(synthetic_speech(960_000, 4), wish(engine)))
        heard = await asyncio.to_thread(listen)
        await recording
        return heard

    stream = stochastic.stream(compute=Compute(2))
    expected = [
        event.to_dict() for first in range(0, len(sound), 8000) for event in stream.feed(sound[first : first + 8000])
    ]
    assert run(stochastic, script) == [*expected, *(event.to_dict() for event in stream.finish())]


def test_text_of_a_long_recording_is_told_chunk_by_chunk_and_joins_to_the_whole(stochastic):
    async def script(engine):
        told: list[str] = []
        asked = wish(engine, compute=Compute(1), on_text=lambda text, point: told.append(text))
        outcome = await engine.transcribe(synthetic_speech(90 * SAMPLE_RATE, 5), asked)
        return told, outcome.transcript.text

    told, text = run(stochastic, script)
    assert len(told) >= 3
    assert "".join(told) == text


def test_the_state_says_what_is_going_on(sleeping):
    async def script(engine):
        calls = [asyncio.create_task(engine.transcribe(silence(8.0), wish(engine))) for _ in range(6)]
        await asyncio.sleep(0.05)
        busy = engine.state()
        await asyncio.gather(*calls)
        return busy, engine.state()

    busy, idle = run(sleeping, script, RUNGS, target_p95_ms=500)
    assert busy["queue"]["requests"] == 6
    assert busy["queue"]["audio_seconds"] > 0
    assert idle["queue"] == {"requests": 0, "chunks": 0, "audio_seconds": 0, "wait_ms": 0.0}
    assert idle["p95_ms"] >= idle["p50_ms"] > 0
    assert {point["point"] for point in idle["points"]} == {str(point) for point in sleeping.compute_options}
    used = [point for point in idle["points"] if point["used"]]
    assert len(used) == len(RUNGS)
    assert all(point["ms_per_10s"] > 0 for point in used)

"""Requests that meet in one server, over HTTP: the library's words, honest headers, refusals, figures."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import soundfile
from toy_server import CLIPS, EXAMPLES, Serve

import sewkit
from sewkit import Compute
from sewkit.audio import load_audio

ADDRESS = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Short and long ones, of several formats and rates; the longest is heard in chunks."""
    folder = tmp_path_factory.mktemp("recordings")
    digits = load_audio(EXAMPLES / "digits.flac")
    soundfile.write(folder / "long.flac", np.concatenate([digits] * 3), 16_000)
    soundfile.write(folder / "stereo.wav", np.stack([digits[:40_000]] * 2, axis=1), 8_000)
    return [*sorted(CLIPS.glob("*.opus"))[:8], *folder.iterdir()]


def post(url, file, **fields):
    return httpx.post(f"{url}{ADDRESS}", files={"file": file.read_bytes()}, data=fields, timeout=60)


def some_shared(url: str) -> bool:
    """Whether a batch of the server had more than one clip."""
    told = dict(line.rsplit(" ", 1) for line in httpx.get(f"{url}/metrics").text.splitlines() if line[:1] != "#")
    return float(told["sewkit_batch_items_sum"]) > float(told["sewkit_batch_items_count"])


def test_answers_that_shared_batches_are_what_the_library_says_of_the_same_files(words_url, words, recordings):
    for _ in range(10):  # on a busy machine requests may come one by one
        with ThreadPoolExecutor(len(recordings)) as pool:
            answers = list(pool.map(lambda file: post(words_url, file, response_format="verbose_json"), recordings))
        if did_share := some_shared(words_url):
            break
    assert did_share
    for file, answer in zip(recordings, answers, strict=True):
        found = answer.json()
        alone = words.transcribe(file, compute=found["compute"]).to_dict()
        assert found["text"] == alone["text"]
        assert found["duration"] == alone["duration"]
        times = [(segment["text"], segment["start"], segment["end"]) for segment in alone["segments"]]
        assert [(one["text"], one["start"], one["end"]) for one in found["segments"]] == times


def test_body_and_header_say_which_operating_point_ran(serve: Serve, stochastic, recordings):
    url = serve(stochastic)
    fixed = post(url, recordings[0], compute="squeeze=3,kv_pool=2")
    assert fixed.headers["x-sewkit-compute"] == fixed.json()["compute"] == "squeeze=3,kv_pool=2"
    named = post(url, recordings[0], compute="fast", response_format="text")
    assert named.headers["x-sewkit-compute"] == str(stochastic.resolve("fast"))
    free = post(url, recordings[0], compute="auto")
    assert free.headers["x-sewkit-compute"] == str(stochastic.resolve("full")), "nothing else was going on"
    hasty = post(url, recordings[0], latency_budget_ms="0.001")
    used = [point["point"] for point in httpx.get(f"{url}/v1/state").json()["points"] if point["used"]]
    assert hasty.json()["compute"] in used
    assert len(used) == 1 or hasty.json()["compute"] != used[-1]
    stream = post(url, recordings[0], stream="true", compute="balanced")
    events = [json.loads(line[6:]) for line in stream.text.splitlines() if line]
    assert stream.headers["x-sewkit-compute"] == events[-1]["compute"] == str(stochastic.resolve("balanced"))
    assert stream.headers["content-type"].startswith("text/event-stream")


class Slow:
    """A runtime that takes its time."""

    def __init__(self, asr: sewkit.Recognizer):
        self.config = asr.config
        self.seconds = 0.0

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        time.sleep(self.seconds)
        return [np.zeros((len(waveform) // 320, self.config.vocab_size), np.float32) for waveform in waveforms]

    encode = class_scores = logits


def test_beyond_the_cheapest_point_requests_are_told_when_to_come_again(serve: Serve, words, recordings):
    runtime = Slow(words)
    runtime.seconds = 0.3
    url = serve(sewkit.Recognizer(words.loaded, runtime, "slow"), target_p95_ms=400, max_wait_ms=800, batch_seconds=1.0)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(url, EXAMPLES / "commands.flac"), range(16)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert answer.json()["error"]["code"] == "busy"
    assert 'sewkit_refused_total{reason="busy"}' in httpx.get(f"{url}/metrics").text
    time.sleep(1.0)
    assert post(url, recordings[0]).status_code == 200


def test_figures_for_prometheus_have_their_names(words_url, recordings):
    post(words_url, recordings[0], compute="squeeze=1")
    told = httpx.get(f"{words_url}/metrics")
    assert told.headers["content-type"].startswith("text/plain")
    for name in (
        'sewkit_requests_total{path="/v1/audio/transcriptions",status="200"}',
        'sewkit_request_seconds_bucket{le="0.1",path="/v1/audio/transcriptions"}',
        'sewkit_audio_seconds_total{compute="squeeze=1"}',
        "sewkit_waited_seconds_count",
        "sewkit_queue_requests 0.0",
        "sewkit_queue_audio_seconds 0.0",
        "sewkit_levels ",
    ):
        assert name in told.text


def test_unknown_addresses_and_methods_are_errors_in_the_same_form(words_url):
    for answer, status in ((httpx.get(f"{words_url}/v2/nothing"), 404), (httpx.get(f"{words_url}{ADDRESS}"), 405)):
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{words_url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{words_url}/ready").json() == {"status": "ready"}

"""The public `openai` client, as it comes, against a server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from toy_server import EXAMPLES, Serve

import sewkit
from sewkit.transcript import WRITERS

DIGITS = EXAMPLES / "digits.flac"
SPOKEN = (EXAMPLES / "digits.txt").read_text().strip()


@pytest.fixture
def client(words_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{words_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def transcribe(client: openai.OpenAI, **fields: Any) -> Any:
    with DIGITS.open("rb") as file:
        return client.audio.transcriptions.create(
            file=file, **{"model": "sew-words", "extra_body": {"compute": "full"}, **fields}
        )


@pytest.fixture(scope="module")
def expected(words: sewkit.Recognizer) -> sewkit.Transcript:
    return words.transcribe(DIGITS)


def test_json_is_the_default_and_holds_the_words_of_the_library(client, expected):
    answer = transcribe(client)
    assert answer.text == expected.text == SPOKEN
    assert answer.usage.seconds == pytest.approx(expected.duration, abs=1e-3)
    assert answer.compute == str(expected.compute)


@pytest.mark.parametrize("format", ["text", "srt", "vtt"])
def test_plain_formats_are_what_the_library_writes(client, expected, format):
    answer = transcribe(client, response_format=format)
    assert answer == (f"{expected.text}\n" if format == "text" else WRITERS[format](expected))


def test_verbose_json_has_words_and_segments_as_asked(client, expected):
    answer = transcribe(client, response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert [(word.word, word.start, word.end) for word in answer.words] == [
        (word.text, pytest.approx(word.start, abs=1e-3), pytest.approx(word.end, abs=1e-3)) for word in expected.words
    ]
    assert [segment.text for segment in answer.segments] == [segment.text for segment in expected.segments]
    assert answer.segments[0].avg_logprob <= 0
    assert answer.duration == pytest.approx(expected.duration, abs=1e-3)
    assert transcribe(client, response_format="verbose_json").words is None
    only_words = transcribe(client, response_format="verbose_json", timestamp_granularities=["word"])
    assert only_words.segments is None
    assert len(only_words.words) == len(expected.words)


def test_a_stream_gives_deltas_that_join_to_the_text(client, expected):
    events = list(transcribe(client, stream=True))
    assert [event.type for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1)
    assert events[-1].type == "transcript.text.done"
    assert "".join(event.delta for event in events[:-1]) == events[-1].text == expected.text


def test_the_header_names_the_operating_point(client, expected):
    with DIGITS.open("rb") as file:
        raw = client.audio.transcriptions.with_raw_response.create(
            file=file, model="whisper-1", response_format="srt", extra_body={"compute": "full"}
        )
    assert raw.headers["x-sewkit-compute"] == str(expected.compute)
    assert raw.headers["content-type"] == "application/x-subrip"


def test_the_model_is_listed_and_others_are_not_found(client):
    assert [model.id for model in client.models.list()] == ["sew-words"]
    assert client.models.retrieve("sew-words").id == "sew-words"
    with pytest.raises(openai.NotFoundError, match="sew-words"):
        client.models.retrieve("gpt-4o-transcribe")
    with pytest.raises(openai.NotFoundError) as error:
        transcribe(client, model="gpt-4o-transcribe")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"extra_body": {"compute": "squeeze=9"}}, "compute"),
        ({"extra_body": {"latency_budget_ms": "soon"}}, "latency_budget_ms"),
        ({"extra_body": {"hotwords": "YES=much"}}, "hotwords"),
        ({"temperature": 3}, "temperature"),
    ],
)
def test_errors_name_the_field(client, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        transcribe(client, **fields)
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


def test_what_is_no_audio_is_one_clear_error(client):
    with pytest.raises(openai.BadRequestError, match="text, not audio"):
        client.audio.transcriptions.create(file=("song.mp3", b"la la la"), model="sew-words")


def test_hotwords_are_searched_for(client, expected):
    hotwords = {"extra_body": {"hotwords": ["NINE=3", "TWO FIVE"]}}
    assert transcribe(client, **hotwords).text == expected.text


def test_a_key_is_needed_where_the_server_has_one(serve: Serve, words):
    url = f"{serve(words, api_key='secret')}/v1"
    with openai.OpenAI(base_url=url, api_key="guess", max_retries=0) as stranger:
        for call in (lambda: stranger.models.list(), lambda: transcribe(stranger)):
            with pytest.raises(openai.AuthenticationError):
                call()
    with openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as friend:
        assert transcribe(friend).text

"""What goes over HTTP: the fields of a request and the forms of an answer, as OpenAI's clients know them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from sewkit.decode.hotwords import parse_hotword
from sewkit.serve.engine import Outcome
from sewkit.serve.errors import ApiError, shortened
from sewkit.transcript import WRITERS, Segment, Word

Format = Literal["json", "text", "srt", "vtt", "verbose_json"]
LIST_FIELDS = frozenset({"timestamp_granularities", "include", "hotwords"})
"""Fields that may come more than once, also spelled with `[]` behind."""
UNKNOWN_LANGUAGE = "und"
COMPUTE_HEADER = "x-sewkit-compute"


class Fields(BaseModel):
    """The form fields of a transcription beside its file. Fields that are not here are passed over.

    `prompt`, `temperature`, `include` and `chunking_strategy` are taken, as clients send them, and change nothing.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = Field("", max_length=256, description="The served model, as /v1/models names it.")
    language: str | None = Field(None, max_length=64, description="Said back in verbose_json; the model has one.")
    prompt: str | None = Field(None, description="Taken and not used.")
    response_format: Format = "json"
    temperature: float | None = Field(
        None, ge=0, le=1, description="Taken and not used: the answer is always the same."
    )
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = Field(
        ("segment",), description="What verbose_json holds beside the text."
    )
    stream: bool = Field(False, description="Answer with server-sent events, text as soon as it is final.")
    compute: str | None = Field(
        None, max_length=512, description="Operating point: auto, full, balanced, fast, or such as squeeze=4,kv_pool=2."
    )
    latency_budget_ms: float | None = Field(
        None, gt=0, le=3.6e6, description="The answer is wanted within this time; the operating point is chosen for it."
    )
    hotwords: tuple[str, ...] = Field(
        (), max_length=1000, description="Words or phrases to favour, WORD or WORD=WEIGHT, also several with commas."
    )

    @field_validator("hotwords", mode="before")
    @classmethod
    def _split(cls, value: Sequence[str]) -> list[str]:
        return [word.strip() for line in value for word in line.split(",") if word.strip()]

    @field_validator("stream", mode="before")
    @classmethod
    def _flag(cls, value: Any) -> Any:
        return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value

    def weighted_hotwords(self) -> dict[str, float]:
        """Raises UserError."""
        return dict(parse_hotword(word) for word in self.hotwords)


def read_fields(raw: Mapping[str, Sequence[str]]) -> Fields:
    """Form fields, each with all its values -> what they mean. Raises ApiError, which names the field."""
    values: dict[str, Any] = {}
    for name, given in raw.items():
        plain = name.removesuffix("[]")
        if plain not in Fields.model_fields:
            continue
        if plain in LIST_FIELDS:
            values[plain] = [*values.get(plain, []), *given]
        elif len(given) > 1:
            raise ApiError(400, f"{name} is given {len(given)} times; expected it once", param=name)
        elif given[0] != "" or name == "model":  # clients send what is not set as an empty field
            values[name] = given[0]
    try:
        return Fields.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        param = str(first["loc"][0])
        raise ApiError(400, f"{param}: {first['msg']}, not {shortened(first['input'])}", param=param) from None


# Answers


class Usage(BaseModel):
    """What was heard."""

    type: Literal["duration"] = "duration"
    seconds: float


class SewkitFacts(BaseModel):
    """What is said of the computation, beside what OpenAI's answers hold."""

    compute: str
    """The operating points that ran, most sound first, such as `squeeze=2`, or `squeeze=2; squeeze=4`."""
    compute_seconds: dict[str, float]
    """Seconds of sound heard at each."""


class Transcription(SewkitFacts):
    """The answer in the format json."""

    text: str
    usage: Usage


class WordTimes(BaseModel):
    """A word, where it was heard, and how sure the model is of it."""

    word: str
    start: float
    end: float
    confidence: float


class SegmentTimes(BaseModel):
    """A line of the text. `seek`, `tokens`, `temperature` and `no_speech_prob` say nothing: the model has none."""

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float
    """Mean of the logarithms of its words' confidences."""
    compression_ratio: float
    seek: int = 0
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    no_speech_prob: float = 0.0


class VerboseTranscription(Transcription):
    """The answer in the format verbose_json."""

    task: Literal["transcribe"] = "transcribe"
    language: str
    duration: float
    words: list[WordTimes] | None = None
    segments: list[SegmentTimes] | None = None


class ErrorFacts(BaseModel):
    """Why a request was not answered."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's form."""

    error: ErrorFacts


@dataclass(frozen=True)
class Answer:
    """The body of an answer and its type."""

    body: str
    media_type: str


MEDIA_TYPES: dict[str, str] = {
    "json": "application/json",
    "verbose_json": "application/json",
    "text": "text/plain",
    "srt": "application/x-subrip",
    "vtt": "text/vtt",
}


def write_answer(outcome: Outcome, fields: Fields) -> Answer:
    """An outcome in the format that was asked for."""
    chosen = fields.response_format
    if chosen == "text":
        return Answer(f"{outcome.transcript.text}\n", MEDIA_TYPES[chosen])
    if chosen in ("srt", "vtt"):
        return Answer(WRITERS[chosen](outcome.transcript), MEDIA_TYPES[chosen])
    document = _verbose(outcome, fields) if chosen == "verbose_json" else Transcription(**_common(outcome))
    return Answer(document.model_dump_json(exclude_none=True), MEDIA_TYPES[chosen])


def _common(outcome: Outcome) -> dict[str, Any]:
    seconds = round(outcome.transcript.duration, 3)
    return {
        "text": outcome.transcript.text,
        "usage": Usage(seconds=seconds),
        "compute": outcome.point,
        "compute_seconds": outcome.points,
    }


def _verbose(outcome: Outcome, fields: Fields) -> VerboseTranscription:
    transcript, wanted = outcome.transcript, fields.timestamp_granularities
    words = [_word(word) for word in transcript.words] if "word" in wanted else None
    segments = [_segment(*one) for one in enumerate(transcript.segments)] if "segment" in wanted else None
    return VerboseTranscription(
        **_common(outcome),
        language=fields.language or UNKNOWN_LANGUAGE,
        duration=round(transcript.duration, 3),
        words=words,
        segments=segments,
    )


def _word(word: Word) -> WordTimes:
    return WordTimes(**word.to_dict())


def _segment(id: int, segment: Segment) -> SegmentTimes:
    logs = [math.log(max(word.confidence, 1e-9)) for word in segment.words]
    data = segment.text.encode()
    return SegmentTimes(
        id=id,
        start=round(segment.start, 3),
        end=round(segment.end, 3),
        text=segment.text,
        avg_logprob=round(sum(logs) / len(logs), 4),
        compression_ratio=round(len(data) / len(zlib.compress(data)), 3),
    )


def delta_event(text: str, compute: str) -> dict[str, Any]:
    """New text of a streamed answer."""
    return {"type": "transcript.text.delta", "delta": text, "compute": compute}


def done_event(outcome: Outcome) -> dict[str, Any]:
    """The end of a streamed answer."""
    return {"type": "transcript.text.done", **Transcription(**_common(outcome)).model_dump()}


def request_body() -> dict[str, Any]:
    """The form of a request for OpenAPI: the file and the fields."""
    schema = Fields.model_json_schema()
    schema["properties"] = {"file": {"type": "string", "format": "binary"}, **schema["properties"]}
    schema["required"] = ["file"]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}

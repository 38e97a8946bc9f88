"""OpenAI's realtime transcription events, as a form of live transcription; their clients talk to it unchanged.

    client                                      server
    session.update                              session.created, session.updated
    input_audio_buffer.append (base64)          input_audio_buffer.speech_started,
                                                conversation.item.input_audio_transcription.delta ...
                                                input_audio_buffer.speech_stopped, .committed, conversation.item.added,
                                                conversation.item.input_audio_transcription.completed
    input_audio_buffer.commit, .clear           the same from .committed on; input_audio_buffer.cleared

Both dialects are spoken: that with `session.update`, and the beta's with `transcription_session.update` and flat
fields. Sound is 16-bit PCM at 24 kHz unless the session's format names another rate.

With turn detection, which is on until it is set to null, each segment of the stream is an item. Its deltas are words
that no longer change before its transcript, for which the sound is heard anew: that may correct them. Without, an item
ends with the client's commit, its deltas are the finals of the stream, and they add up to its transcript.

Besides what OpenAI sends, a transcript has `words` with times and confidence, and `compute`, the operating point that
ran; a session takes `compute`, null for what the server can afford. `threshold`, `prefix_padding_ms`, `prompt`,
`language` and noise reduction are taken and have no effect.
"""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sewkit.errors import UserError
from sewkit.segments import Segmentation
from sewkit.serve.errors import shortened
from sewkit.serve.listener import Heard, Listener, Pcm16
from sewkit.serve.live import ClientError
from sewkit.serve.plain import read_object, read_text
from sewkit.streaming import Final, Partial
from sewkit.transcript import Word

SAMPLE_RATE = 24_000
"""Of sound whose format does not say."""
MIN_COMMIT_SECONDS = 0.1
_LOGPROBS = "item.input_audio_transcription.logprobs"


class _Format(BaseModel):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: int = SAMPLE_RATE


class _TurnDetection(BaseModel):
    type: Literal["server_vad", "semantic_vad"] = "server_vad"
    silence_duration_ms: int = Field(round(1000 * Segmentation().pause), ge=100, le=5000)


class _Session(BaseModel):
    """What a client may set, in one layout for both dialects; the rest of OpenAI's fields is let pass."""

    model_config = ConfigDict(validate_assignment=True)

    format: _Format = _Format()
    transcription: dict[str, Any] | None = None
    turn_detection: _TurnDetection | None = _TurnDetection()
    include: list[str] | None = None
    compute: str | None = None

    def updated(self, fields: dict[str, Any]) -> _Session:
        """With what `fields`, of either dialect, say. Raises ClientError."""
        sound = fields.get("audio", {}).get("input", {}) if isinstance(fields.get("audio", {}), dict) else {}
        given = {**fields, **(sound if isinstance(sound, dict) else {})}
        if "input_audio_format" in given:
            written = given.pop("input_audio_format")
            given["format"] = {} if written == "pcm16" else written
        if "input_audio_transcription" in given:
            given["transcription"] = given.pop("input_audio_transcription")
        given = {name: value for name, value in given.items() if name in _Session.model_fields}
        try:
            return _Session.model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            first = error.errors()[0]
            place = "session." + ".".join(map(str, first["loc"]))
            raise ClientError("invalid_value", f"{place}: {first['msg']}", place) from None


class _Item:
    """A message to be: sound whose words are told as they come."""

    def __init__(self) -> None:
        self.id = _new_id("item")
        self.told: list[str] = []
        self.words: list[Word] = []
        self.seconds = 0.0

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


class OpenAIForm:
    """OpenAI's events; a `Form`. `is_beta` says in which dialect the session is announced."""

    is_over = False  # the client ends it by closing

    def __init__(self, listener: Listener, model: str, *, is_beta: bool = False):
        self.listener = listener
        self._model, self._is_beta = model, is_beta
        self._id = _new_id("sess")
        self._settings = _Session()
        self._samples = Pcm16()
        self._item: _Item | None = None
        self._previous_id: str | None = None
        self._client_event_id: str | None = None

    def greeting(self) -> dict[str, Any]:
        """See `Form.greeting`."""
        return self._session_event("created")

    async def reply(self, message: str | bytes) -> AsyncIterator[dict[str, Any]]:
        """See `Form.reply`."""
        self._client_event_id = None
        if isinstance(message, bytes):
            raise ClientError("invalid_json", "binary blocks are for /v1/stream; expected events in JSON")
        command = read_object(message)
        self._client_event_id = read_text(command, "event_id")
        kind = read_text(command, "type")
        if kind == "input_audio_buffer.append":
            async for heard in self.listener.feed(self._samples.feed(_decoded(command))):
                for event in self._tell(heard):
                    yield event
        elif kind == "input_audio_buffer.commit":
            if self.listener.seconds_open < MIN_COMMIT_SECONDS:
                problem = f"expected at least {1000 * MIN_COMMIT_SECONDS:g} ms of sound since the last commit"
                raise ClientError("input_audio_buffer_commit_empty", problem)
            async for event in self._commit():
                yield event
        elif kind == "input_audio_buffer.clear":
            self.listener.clear()
            self._samples, self._item = Pcm16(), None
            yield _event("input_audio_buffer.cleared")
        elif kind in ("session.update", "transcription_session.update"):
            self._is_beta = kind != "session.update"
            self._update(command.get("session"))
            yield self._session_event("updated")
        else:
            expected = "session.update or input_audio_buffer.append, .commit or .clear"
            problem = f"type {shortened(kind)} is not known here; expected {expected}"
            raise ClientError("invalid_event_type", problem, "type")

    async def farewell(self) -> AsyncIterator[dict[str, Any]]:
        """See `Form.farewell`."""
        if self.listener.seconds_open >= MIN_COMMIT_SECONDS:
            async for event in self._commit():
                yield event

    def error(self, error: UserError) -> dict[str, Any]:
        """See `Form.error`."""
        code = getattr(error, "code", "invalid_value")
        kind = "server_error" if code.startswith("server") else "invalid_request_error"
        param = getattr(error, "param", None)
        about = {"type": kind, "code": code, "message": str(error), "param": param, "event_id": self._client_event_id}
        return _event("error", error=about)

    # Settings

    def _update(self, fields: Any) -> None:
        """All or nothing."""
        if not isinstance(fields, dict):
            raise ClientError("missing_required_parameter", "session: expected an object of settings", "session")
        settings = self._settings.updated(fields)
        turns = settings.turn_detection or _TurnDetection()
        compute = self.listener.resolve(settings.compute)
        self.listener.configure(sample_rate=settings.format.rate, pause=turns.silence_duration_ms / 1000)
        self.listener.compute = compute
        self._settings = settings

    def _session_event(self, what: str) -> dict[str, Any]:
        settings = self._settings.model_dump()
        sound = {
            "transcription": {**(settings["transcription"] or {}), "model": self._model},
            "turn_detection": settings["turn_detection"],
        }
        session = {"id": self._id, "object": "realtime.transcription_session", "include": settings["include"]}
        session["compute"] = settings["compute"]
        if self._is_beta:
            flat = {"input_audio_format": "pcm16", "input_audio_transcription": sound["transcription"]}
            session |= {**flat, "turn_detection": sound["turn_detection"]}
            return _event(f"transcription_session.{what}", session=session)
        session |= {"type": "transcription", "audio": {"input": {"format": settings["format"], **sound}}}
        return _event(f"session.{what}", session=session)

    # Words

    def _tell(self, heard: Heard) -> Iterator[dict[str, Any]]:
        if isinstance(heard.event, Final):
            yield from self._tell_final(heard.event, str(heard.compute))
        elif self._settings.turn_detection is not None:
            yield from self._tell_partial(heard.event)

    def _tell_partial(self, partial: Partial) -> Iterator[dict[str, Any]]:
        if not partial.words:
            return
        if self._item is None:
            yield from self._begin(partial.words[0].start)
        yield from self._delta([word.text for word in partial.words[: partial.stable]])

    def _tell_final(self, final: Final, compute: str) -> Iterator[dict[str, Any]]:
        if self._item is None:
            if not final.words:
                return
            yield from self._begin(final.words[0].start)
        assert self._item is not None
        self._item.words += final.words
        self._item.seconds += final.end - final.start
        yield from self._delta([word.text for word in self._item.words])
        if self._settings.turn_detection is not None:
            end = final.words[-1].end if final.words else final.end
            yield _event("input_audio_buffer.speech_stopped", audio_end_ms=_milliseconds(end), item_id=self._item.id)
            yield from self._complete(compute)

    def _begin(self, start: float) -> Iterator[dict[str, Any]]:
        self._item = _Item()
        if self._settings.turn_detection is not None:
            yield _event(
                "input_audio_buffer.speech_started", audio_start_ms=_milliseconds(start), item_id=self._item.id
            )

    def _delta(self, texts: list[str]) -> Iterator[dict[str, Any]]:
        """The texts behind those that were told; nothing where these are others now, for they cannot be taken back."""
        item = self._item
        assert item is not None
        known = len(item.told)
        if len(texts) > known and texts[:known] == item.told:
            delta = (" " if known else "") + " ".join(texts[known:])
            item.told = texts
            kind = "conversation.item.input_audio_transcription.delta"
            yield _event(kind, item_id=item.id, content_index=0, delta=delta)

    async def _commit(self) -> AsyncIterator[dict[str, Any]]:
        """The end of the sound so far: its item, with or without words."""
        finals = await self.listener.finish()
        self._samples = Pcm16()
        is_told = False
        compute = str(self.listener.last_point)
        for heard in finals:
            for event in self._tell(heard):
                is_told = is_told or event["type"] == "input_audio_buffer.committed"
                yield event
        if self._item is not None or not is_told:
            self._item = self._item or _Item()
            for event in self._complete(compute):
                yield event

    def _complete(self, compute: str) -> Iterator[dict[str, Any]]:
        item = self._item
        assert item is not None
        content = [{"type": "input_audio", "transcript": None}]
        message = {"id": item.id, "object": "realtime.item", "type": "message", "role": "user", "content": content}
        added = "conversation.item.created" if self._is_beta else "conversation.item.added"
        transcript = {
            "transcript": item.text,
            "usage": {"type": "duration", "seconds": round(item.seconds, 3)},
            "logprobs": _logprobs(item.words) if _LOGPROBS in (self._settings.include or []) else None,
            "words": [word.to_dict() for word in item.words],
            "compute": compute,
        }
        yield _event("input_audio_buffer.committed", item_id=item.id, previous_item_id=self._previous_id)
        yield _event(added, item={**message, "status": "completed"}, previous_item_id=self._previous_id)
        kind = "conversation.item.input_audio_transcription.completed"
        yield _event(kind, item_id=item.id, content_index=0, **transcript)
        self._previous_id, self._item = item.id, None


def _event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "event_id": _new_id("event"), **fields}


def _new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(10)}"


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _decoded(command: dict[str, Any]) -> bytes:
    try:
        return base64.b64decode(read_text(command, "audio") or "", validate=True)
    except ValueError as error:
        raise ClientError("invalid_value", f"audio is not base64 ({error})", "audio") from None


def _logprobs(words: list[Word]) -> list[dict[str, Any]]:
    """Of whole words: their confidences as natural logarithms."""
    return [
        {
            "token": word.text,
            "bytes": list(word.text.encode()),
            "logprob": math.log(max(float(word.confidence), 1e-10)),
        }
        for word in words
    ]

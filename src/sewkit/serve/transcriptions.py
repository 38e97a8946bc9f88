"""`POST /v1/audio/transcriptions`: an upload to text."""

from __future__ import annotations

import asyncio
import json
import math
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from sewkit.audio import SAMPLE_RATE
from sewkit.compute import Compute
from sewkit.decode import Decoder
from sewkit.errors import UserError
from sewkit.serve.decoders import Decoders, UploadError
from sewkit.serve.engine import BusyError, Engine, Outcome, Wish
from sewkit.serve.errors import ApiError
from sewkit.serve.limits import Slots, require_key
from sewkit.serve.schema import (
    COMPUTE_HEADER,
    MEDIA_TYPES,
    ErrorAnswer,
    Fields,
    Transcription,
    VerboseTranscription,
    delta_event,
    done_event,
    read_fields,
    request_body,
    write_answer,
)
from sewkit.serve.settings import Settings
from sewkit.serve.uploads import Body

AUTO = "auto"
EVENT_STREAM = "text/event-stream"
GONE = 499
"""For the log: the client left before its answer."""
_Result = TypeVar("_Result")


def transcriptions_router(transcriptions: Transcriptions) -> APIRouter:
    """The address, described for OpenAPI: its body is read by hand, as it comes."""
    router = APIRouter()

    @router.post(
        "/v1/audio/transcriptions", response_class=Response, responses=_RESPONSES, openapi_extra=request_body()
    )
    async def transcribe(request: Request) -> Response:
        """Transcribe a recording, as OpenAI's API does. The header x-sewkit-compute names the operating point."""
        return await transcriptions.answer(request)

    return router


class Transcriptions:
    """From a request to its answer."""

    def __init__(self, engine: Engine, decoders: Decoders, settings: Settings):
        self._engine, self._decoders, self._settings = engine, decoders, settings
        self._slots = Slots(settings)

    async def answer(self, request: Request) -> Response:
        """Raises ApiError."""
        body = Body(request, self._settings)
        with ExitStack() as held:
            try:
                require_key(request, self._settings)
                held.enter_context(self._slots.slot(request.client.host if request.client else ""))
                return await self._answer(request, body, held)
            except ApiError as error:
                self._engine.metrics.refused.labels(error.code or "bad_request").inc()
                await body.discard()
                raise
            except ClientDisconnect:
                return Response(status_code=GONE)

    async def _answer(self, request: Request, body: Body, held: ExitStack) -> Response:
        self._expect_room()
        with tempfile.TemporaryDirectory(prefix="sewkit-", dir=self._settings.scratch) as folder:
            upload = Path(folder) / "upload"
            fields = read_fields(await body.store(upload))
            arrived = asyncio.get_running_loop().time()
            compute, decoder = self._compute(fields), self._decoder(fields)
            samples = await _unless_gone(request, self._decode(upload))
        # The folder is gone; its samples are there for as long as somebody reads them.
        request.state.facts["audio_seconds"] = round(len(samples) / SAMPLE_RATE, 2)
        latency = None if fields.latency_budget_ms is None else fields.latency_budget_ms / 1e3
        wish = Wish(arrived, compute, latency, decoder)
        if fields.stream:
            return await self._stream(request, samples, wish, held)
        outcome = await _unless_gone(request, self._transcribe(samples, wish))
        request.state.facts["compute"] = outcome.point
        answer = write_answer(outcome, fields)
        return Response(answer.body, media_type=answer.media_type, headers={COMPUTE_HEADER: outcome.point})

    async def _stream(self, request: Request, samples: np.ndarray, wish: Wish, held: ExitStack) -> Response:
        """The first words are waited for: with them it is known where they were heard, and that there is no error."""
        told: asyncio.Queue[tuple[str, Compute] | None] = asyncio.Queue()
        wish = replace(wish, on_text=lambda text, point: told.put_nowait((text, point)))
        work = asyncio.create_task(self._transcribe(samples, wish))
        work.add_done_callback(lambda _: told.put_nowait(None))
        try:
            first = await _unless_gone(request, told.get())
            point = work.result().point if first is None else str(first[1])
        except BaseException:
            work.cancel()
            raise
        request.state.facts["compute"] = point
        headers = {COMPUTE_HEADER: point, "cache-control": "no-cache", "x-accel-buffering": "no"}
        return _EventStream(_events(first, told, work), headers, work, held.pop_all())

    async def _transcribe(self, samples: np.ndarray, wish: Wish) -> Outcome:
        try:
            return await self._engine.transcribe(samples, wish)
        except BusyError as error:
            raise _busy(error) from None

    def _expect_room(self) -> None:
        try:
            self._engine.admit()
        except BusyError as error:
            raise _busy(error) from None

    async def _decode(self, upload: Path) -> np.ndarray:
        try:
            return await self._decoders.decode(upload)
        except UploadError as error:
            status = {"audio_too_long": 413, "no_room": 503}.get(error.code, 400)
            raise ApiError(status, f"the file cannot be used: {error}", param="file", code=error.code) from None

    def _compute(self, fields: Fields) -> Compute | None:
        self._engine.expect_name(fields.model)
        try:
            return None if fields.compute in (None, AUTO) else self._engine.asr.resolve(fields.compute)
        except UserError as error:
            raise ApiError(400, str(error), param="compute", code="unknown_operating_point") from None

    def _decoder(self, fields: Fields) -> Decoder | None:
        try:
            hotwords = fields.weighted_hotwords()
            return self._engine.asr.beam_search(hotwords=hotwords) if hotwords else None
        except UserError as error:
            raise ApiError(400, str(error), param="hotwords") from None


def _busy(error: BusyError) -> ApiError:
    seconds = math.ceil(error.retry_after)
    return ApiError(429, str(error), code="busy", headers={"retry-after": str(seconds)})


class _EventStream(StreamingResponse):
    """Events of some work. With its end, even before the first event, the work ends and what is held is given back."""

    def __init__(
        self, events: AsyncIterator[str], headers: dict[str, str], work: asyncio.Task[Outcome], held: ExitStack
    ):
        super().__init__(events, media_type=EVENT_STREAM, headers=headers)
        self._work, self._held = work, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        with self._held:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self._work.cancel()


async def _events(
    first: tuple[str, Compute] | None, told: asyncio.Queue[tuple[str, Compute] | None], work: asyncio.Task[Outcome]
) -> AsyncIterator[str]:
    """Server-sent events: the text as it becomes final, then all of it."""
    text = first
    while text is not None:
        yield _event(delta_event(text[0], str(text[1])))
        text = await told.get()
    yield _event(done_event(await work))


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


async def _unless_gone(request: Request, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
    """The result of some work for a client, which is dropped if the client leaves. Raises ClientDisconnect."""
    work = asyncio.ensure_future(coroutine)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        # What was cancelled gets to clean up before its files are taken away.
        await asyncio.gather(work, gone, return_exceptions=True)


_TEXT = {"schema": {"type": "string"}}
_HEADERS = {
    COMPUTE_HEADER: {
        "description": "The operating points that ran; of a stream, that of its first words.",
        "schema": {"type": "string"},
    }
}
_ERRORS = {
    400: "A field or the file cannot be used.",
    401: "No key, or another one.",
    404: "Another model.",
    408: "The upload took too long.",
    413: "The file is too large, or its sound too long.",
    415: "The body is not multipart/form-data.",
    429: "Busy beyond the cheapest operating point, or too many requests of one client; see Retry-After.",
    503: "No room for uploads.",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The transcript, in the format asked for.",
        "headers": _HEADERS,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [model.model_json_schema() for model in (VerboseTranscription, Transcription)],
                }
            },
            **{kind: _TEXT for kind in MEDIA_TYPES.values() if kind != "application/json"},
            EVENT_STREAM: _TEXT,
        },
    },
    **{status: {"model": ErrorAnswer, "description": text} for status, text in _ERRORS.items()},
}

"""The application: addresses, and what runs behind them from start to end.

Helpers of other files add ways in with routers of their own, which are handed the `Engine`; `create_app` includes them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import multiprocess
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from uvicorn.config import STARTUP_FAILURE

from sewkit.errors import UserError
from sewkit.recognizer import Recognizer, load
from sewkit.serve.decoders import Decoders
from sewkit.serve.engine import Engine
from sewkit.serve.errors import ApiError
from sewkit.serve.live import LiveLimits, LiveSessions
from sewkit.serve.metrics import MULTIPROCESS_FOLDER, Metrics
from sewkit.serve.operations import operations_router
from sewkit.serve.page import page_router
from sewkit.serve.realtime import live_router
from sewkit.serve.schema import COMPUTE_HEADER
from sewkit.serve.settings import Settings
from sewkit.serve.transcriptions import Transcriptions, transcriptions_router
from sewkit.serve.watch import REQUEST_ID, Watch
from sewkit.version import __version__

SETTINGS_VARIABLE, KEY_VARIABLE = "SEWKIT_SERVE_SETTINGS", "SEWKIT_API_KEY"
"""How worker processes are told; the key is no part of the settings' JSON."""
_LOG = logging.getLogger(__name__)


def from_environment() -> FastAPI:
    """The application of a worker process, which ends where there cannot be one, so that no other is started for it."""
    settings = Settings.model_validate_json(os.environ[SETTINGS_VARIABLE])
    key = os.environ.get(KEY_VARIABLE)
    try:
        return create_app(settings.model_copy(update={"api_key": SecretStr(key) if key else None}))
    except UserError as error:
        _LOG.error("a worker cannot start: %s", error)
        sys.exit(STARTUP_FAILURE)


def create_app(settings: Settings, asr: Recognizer | None = None) -> FastAPI:
    """The server as an ASGI application; `asr` in place of the model that the settings name.

    It runs under any ASGI server that knows lifespans; `run` in `server` is the one with our limits. Raises UserError.
    """
    asr = asr or load(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        runtime=settings.runtime,
        threads=settings.threads,
        lm=settings.lm,
    )
    metrics = Metrics()
    engine = Engine(asr, settings, metrics)
    decoders = Decoders(settings, metrics)
    limits = LiveLimits(
        max_sessions=settings.max_live_sessions,
        max_per_client=settings.max_per_client,
        max_seconds=settings.max_audio_seconds,
        idle_seconds=settings.live_idle_seconds,
    )
    sessions = LiveSessions(engine.hearing, limits, metrics.live_sessions.set)
    engine.before_shutdown.append(sessions.drain)
    app = FastAPI(
        title="sewkit",
        summary="Speech recognition whose compute follows the load.",
        version=__version__,
        lifespan=_lifespan(engine, decoders),
        docs_url=None,  # their pages load assets from elsewhere
        redoc_url=None,
    )
    app.state.engine = engine
    _add_error_forms(app)
    app.include_router(transcriptions_router(Transcriptions(engine, decoders, settings)))
    app.include_router(operations_router(engine))
    app.include_router(live_router(sessions, engine.name, settings))
    app.include_router(page_router())
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", REQUEST_ID],
            expose_headers=[COMPUTE_HEADER, REQUEST_ID, "retry-after"],
        )
    app.add_middleware(Watch, metrics=metrics)
    return app


def _lifespan(engine: Engine, decoders: Decoders) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What runs behind the addresses, from the first request to the last."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await engine.start()
        _drain_on_signals(engine.drain)
        yield
        await engine.close()
        await decoders.close()
        if MULTIPROCESS_FOLDER in os.environ:
            multiprocess.mark_process_dead(os.getpid())

    return lifespan


def _add_error_forms(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    @app.exception_handler(ApiError)
    async def refuse(request: Request, error: ApiError) -> Response:
        return JSONResponse(error.to_dict(), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def fail(request: Request, error: HTTPException) -> Response:
        told = ApiError(
            error.status_code, f"{error.detail}: {request.method} {request.url.path}", headers=error.headers
        )
        return await refuse(request, told)


def _drain_on_signals(drain: Callable[[], Awaitable[Any]]) -> None:
    """Asked to end, the server first tells those who hold connections open, and then does what it did before.

    A second signal is passed on at once.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    leaving: list[asyncio.Task[None]] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if not callable(before):
            continue

        async def leave(number: int, before: Callable[[int, FrameType | None], Any]) -> None:
            await drain()
            before(number, None)

        def note(number: int, frame: FrameType | None, before: Callable[[int, FrameType | None], Any] = before) -> None:
            if leaving:
                before(number, frame)
            else:
                loop.call_soon_threadsafe(lambda: leaving.append(loop.create_task(leave(number, before))))

        signal.signal(number, note)

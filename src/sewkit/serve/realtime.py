"""The WebSocket addresses: `/v1/realtime` in OpenAI's form, `/v1/stream` in the plain one.

A browser lets any page open a WebSocket to any server, whatever its CORS headers say: a connection that names an origin
other than this server's must be one of those allowed. It cannot send an Authorization header either; it may hand over a
key as OpenAI's clients do there, as the sub-protocol `openai-insecure-api-key.KEY`.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from fastapi import APIRouter, WebSocket
from starlette.responses import JSONResponse

from sewkit.audio import SAMPLE_RATE
from sewkit.errors import UserError
from sewkit.serve import openai_realtime
from sewkit.serve.errors import ApiError, shortened
from sewkit.serve.limits import is_key, require_key
from sewkit.serve.listener import Listener
from sewkit.serve.live import Form, LiveSessions
from sewkit.serve.openai_realtime import OpenAIForm
from sewkit.serve.plain import PlainForm
from sewkit.serve.settings import Settings

KEY_PREFIX = "openai-insecure-api-key."
BETA_HEADER, BETA_VALUE = "openai-beta", "realtime=v1"
SUBPROTOCOLS = ("realtime", "sewkit")
"""Those that a client may offer beside a key; the first that it does is chosen."""


def live_router(sessions: LiveSessions, model: str, settings: Settings) -> APIRouter:
    """Both addresses, for an application to include; `model` is what clients are told."""
    router = APIRouter()

    async def hold(websocket: WebSocket, open_form: Callable[[Listener], Form], sample_rate: int) -> None:
        try:
            _expect_origin(websocket, settings)
            _expect_key(websocket, settings)
        except ApiError as error:
            await websocket.send_denial_response(JSONResponse(error.to_dict(), error.status, error.headers))
            return
        offered = websocket.scope["subprotocols"]
        await websocket.accept(next((name for name in offered if name in SUBPROTOCOLS), None))
        await sessions.hold(websocket, open_form, sample_rate)

    @router.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        is_beta = BETA_VALUE in websocket.headers.get(BETA_HEADER, "")
        await hold(websocket, lambda ear: OpenAIForm(ear, model, is_beta=is_beta), openai_realtime.SAMPLE_RATE)

    @router.websocket("/v1/stream")
    async def stream(websocket: WebSocket, sample_rate: str = str(SAMPLE_RATE), compute: str | None = None) -> None:
        def open_form(listener: Listener) -> Form:
            listener.configure(sample_rate=_rate(sample_rate))
            listener.compute = listener.resolve(compute)
            return PlainForm(listener, model)

        await hold(websocket, open_form, SAMPLE_RATE)

    return router


def _rate(text: str) -> int:
    """Raises UserError, which a client of a WebSocket gets to read, unlike FastAPI's refusal of what is no number."""
    try:
        return int(text)
    except ValueError:
        raise UserError(f"sample_rate={shortened(text)}: expected a whole number of Hz, such as 16000") from None


def _expect_origin(websocket: WebSocket, settings: Settings) -> None:
    """Raises ApiError."""
    origin = websocket.headers.get("origin")
    if origin is None or urlsplit(origin).netloc == websocket.headers.get("host"):
        return
    if origin in settings.cors_origins or "*" in settings.cors_origins:
        return
    raise ApiError(403, f"pages of {origin} may not connect; expected one of this server, or an origin that it allows")


def _expect_key(websocket: WebSocket, settings: Settings) -> None:
    """Raises ApiError."""
    offered = [name[len(KEY_PREFIX) :] for name in websocket.scope["subprotocols"] if name.startswith(KEY_PREFIX)]
    if not any(is_key(settings, key) for key in offered):
        require_key(websocket, settings)

"""The WebSocket addresses: `/v1/realtime` in OpenAI's form, `/v1/stream` in the plain one.

A browser lets any page open a WebSocket to any server, whatever its CORS headers say: a connection that names an origin
other than this server's must be one of those allowed. It cannot send an Authorization header either; it may hand over a
key as OpenAI's clients do there, as the sub-protocol `openai-insecure-api-key.KEY`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, WebSocket
from starlette.responses import JSONResponse

from sewkit.audio import SAMPLE_RATE
from sewkit.serve import openai_realtime
from sewkit.serve.listener import Listener
from sewkit.serve.live import Form, LiveSessions
from sewkit.serve.openai_realtime import OpenAIForm
from sewkit.serve.plain import PlainForm

KEY_PREFIX = "openai-insecure-api-key."
BETA_HEADER, BETA_VALUE = "openai-beta", "realtime=v1"
SUBPROTOCOLS = ("realtime", "sewkit")
"""Those that a client may offer beside a key; the first that it does is chosen."""


@dataclass(frozen=True)
class Door:
    """Who may connect. api_key: None for everybody. origins: of pages elsewhere, "*" for all."""

    api_key: str | None = None
    origins: tuple[str, ...] = ()

    def refusal(self, websocket: WebSocket) -> JSONResponse | None:
        """What to answer somebody who may not."""
        origin = websocket.headers.get("origin")
        if origin is not None and not self._is_known(origin, websocket.headers.get("host", "")):
            return _refusal(403, f"pages of {origin} may not connect here; allow that origin when the server starts")
        if self.api_key is not None and not self._has_key(websocket):
            return _refusal(401, "an API key is needed: Authorization: Bearer KEY")
        return None

    def _is_known(self, origin: str, host: str) -> bool:
        return urlsplit(origin).netloc == host or origin in self.origins or "*" in self.origins

    def _has_key(self, websocket: WebSocket) -> bool:
        kind, _, key = websocket.headers.get("authorization", "").partition(" ")
        found = [key.strip()] if kind.lower() == "bearer" else []
        found += [name[len(KEY_PREFIX) :] for name in websocket.scope["subprotocols"] if name.startswith(KEY_PREFIX)]
        return any(hmac.compare_digest(key.encode(), (self.api_key or "").encode()) for key in found)


def live_router(sessions: LiveSessions, model: str, door: Door | None = None) -> APIRouter:
    """Both addresses, for an application to include."""
    router = APIRouter()
    door = door or Door()

    async def hold(websocket: WebSocket, open_form: Callable[[Listener], Form], sample_rate: int) -> None:
        if (refusal := door.refusal(websocket)) is not None:
            await websocket.send_denial_response(refusal)
            return
        offered = websocket.scope["subprotocols"]
        await websocket.accept(next((name for name in offered if name in SUBPROTOCOLS), None))
        await sessions.hold(websocket, open_form, sample_rate)

    @router.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        is_beta = BETA_VALUE in websocket.headers.get(BETA_HEADER, "")
        await hold(websocket, lambda ear: OpenAIForm(ear, model, is_beta=is_beta), openai_realtime.SAMPLE_RATE)

    @router.websocket("/v1/stream")
    async def stream(
        websocket: WebSocket, sample_rate: Annotated[int, Query()] = SAMPLE_RATE, compute: str | None = None
    ) -> None:
        def open_form(listener: Listener) -> Form:
            listener.compute = listener.resolve(compute)
            return PlainForm(listener, model)

        await hold(websocket, open_form, sample_rate)

    return router


def _refusal(status: int, message: str) -> JSONResponse:
    kind = "invalid_request_error"
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": {"message": message, "type": kind, "code": None, "param": None}}, status, headers)

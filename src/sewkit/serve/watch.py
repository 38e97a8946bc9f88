"""Around every request: an id, a line in the log, figures, and an answer even where the server fails."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sewkit.serve.errors import ApiError
from sewkit.serve.metrics import Metrics

REQUEST_ID = "x-request-id"
_GOOD_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/health", "/ready", "/metrics", "/v1/state"})
"""Asked every few seconds, by machines and by the page: not logged unless they fail."""
_LOG = logging.getLogger("sewkit.serve.requests")


class Watch:
    """ASGI middleware. What a request's handler puts into `request.state.facts`, a dict, is logged with it."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        facts: dict[str, Any] = {}
        scope.setdefault("state", {})["facts"] = facts
        request_id = _request_id(scope)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [(REQUEST_ID.encode(), request_id.encode()), (b"x-content-type-options", b"nosniff")]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            _LOG.exception("a request failed", extra={"facts": {"request_id": request_id}})
            if not status:
                await _fail(send_with_id)
        finally:
            seconds = time.perf_counter() - begun
            path = _route(scope)
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.request_seconds.labels(path).observe(seconds)
            if path not in _QUIET or status >= 500:
                client = scope.get("client")
                line = {
                    "request_id": request_id,
                    "client": client[0] if client else None,
                    "method": scope["method"],
                    "path": path,
                    "status": status,  # 0: the client was gone before its answer
                    "ms": round(1e3 * seconds, 1),
                }
                _LOG.info("request", extra={"facts": {**line, **facts}})


def _request_id(scope: Scope) -> str:
    """The client's, if it is one that may be repeated in logs and headers; or a new one."""
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID.encode()), b"")
    return given.decode() if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)


def _route(scope: Scope) -> str:
    """The pattern that matched, of which there are few, not the path, of which clients can think up any number."""
    return getattr(scope.get("route"), "path", "other")


async def _fail(send: Send) -> None:
    body = json.dumps(ApiError(500, "the server failed; see its log", code="server_error").to_dict()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})

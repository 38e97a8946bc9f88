"""Live sessions: a WebSocket's sound goes through the library's `Stream`, and what it says goes back.

A session is one loop: take a message, hear it, send what it gave, take the next. While the model works nothing is read,
so that a client that sends faster than can be computed is slowed down by TCP and takes no memory. What a message means
and how words are told is a `Form`; `plain` and `openai_realtime` are the two there are.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
import anyio.lowlevel
from starlette.websockets import WebSocket, WebSocketDisconnect

from sewkit.errors import UserError
from sewkit.serve.listener import Hearing, Listener

FAREWELL_SECONDS = 1.0
"""For telling a client that is perhaps no longer there why its session ends."""
WEBSOCKET_OPTIONS: dict[str, Any] = {
    "ws_max_size": 2**21,  # of a message: a minute of sound; reading stops while one is heard
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 60.0,  # no pong is read while reading stops
    "ws_per_message_deflate": False,  # sound hardly gets smaller
}
"""For uvicorn, whose own settings leave more memory to a client."""
GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR, TRY_AGAIN_LATER = 1001, 1008, 1011, 1013
"""Codes of RFC 6455, section 7.4, with which sessions close."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveLimits:
    """What a live session may use."""

    max_sessions: int = 16
    max_per_client: int = 0
    """Of one address; 0 is no limit."""
    max_seconds: float = 4 * 3600.0
    """Of sound, and of waiting for it, in one session."""
    idle_seconds: float = 30.0
    """Without a message."""
    send_seconds: float = 10.0
    """For a client to take an event."""


class ClientError(UserError):
    """A message that the form does not allow; the session goes on. `param` is the field at fault."""

    def __init__(self, code: str, message: str, param: str | None = None):
        super().__init__(message)
        self.code, self.param = code, param


class Form(Protocol):
    """A protocol's messages. It holds the session's `Listener`, and turns what that hears into events."""

    listener: Listener
    is_over: bool
    """Whether the client has asked for the end, and got everything."""

    def greeting(self) -> dict[str, Any]:
        """The first event."""

    def reply(self, message: str | bytes) -> AsyncIterator[dict[str, Any]]:
        """What a message leads to. Raises UserError for one that is refused; the session goes on."""

    def farewell(self) -> AsyncIterator[dict[str, Any]]:
        """The words of the sound that is still open."""

    def error(self, error: UserError) -> dict[str, Any]:
        """How the client is told."""


@dataclass(frozen=True)
class _End:
    """Why the server ends a session."""

    status: int
    code: str
    message: str


class LiveSessions:
    """All live sessions of a server: how many there may be, how long each, and how they end."""

    def __init__(
        self,
        hearing: Hearing,
        limits: LiveLimits | None = None,
        on_count: Callable[[int], object] = lambda count: None,
    ):
        """`on_count` is told how many there are when that changes."""
        self.hearing = hearing
        self.limits = limits or LiveLimits()
        self._on_count = on_count
        self._sessions: set[_Session] = set()
        self._is_draining = False

    def __len__(self) -> int:
        return len(self._sessions)

    async def hold(self, websocket: WebSocket, open_form: Callable[[Listener], Form], sample_rate: int) -> None:
        """Hold a session on an accepted WebSocket until its end. `open_form` may raise UserError."""
        try:
            form = open_form(Listener(self.hearing, anyio.CapacityLimiter(1), sample_rate))
        except UserError as error:
            with contextlib.suppress(WebSocketDisconnect):
                await websocket.send_json({"type": "error", "code": "invalid_request", "message": str(error)})
                await websocket.close(POLICY_VIOLATION, _short(str(error)))
            return
        session = _Session(websocket, form, self.limits)
        if (refusal := self._refusal(session)) is not None:
            await session.end(refusal)
            return
        self._sessions.add(session)
        self._on_count(len(self))
        try:
            await session.run()
        finally:
            self._sessions.discard(session)
            self._on_count(len(self))
            _LOG.info("live session", extra={"facts": session.facts()})

    def _refusal(self, session: _Session) -> _End | None:
        if self._is_draining:
            return _End(GOING_AWAY, "server_shutdown", "the server is going down; connect again")
        most, per_client = self.limits.max_sessions, self.limits.max_per_client
        if len(self) >= most:
            message = f"{most} live sessions are open, as many as may be; try later"
            return _End(TRY_AGAIN_LATER, "session_limit", message)
        if per_client and sum(other.client == session.client for other in self._sessions) >= per_client:
            message = f"this client has {per_client} live sessions, as many as may be; close one"
            return _End(TRY_AGAIN_LATER, "per_client", message)
        return None

    async def drain(self) -> None:
        """Take no new sessions and end those there are: each still tells the words of what it has heard."""
        self._is_draining = True
        for session in self._sessions:
            session.go_away()
        while self._sessions:
            await anyio.sleep(0.02)


class _Session:
    def __init__(self, websocket: WebSocket, form: Form, limits: LiveLimits):
        self._websocket, self._form, self._limits = websocket, form, limits
        self.client = websocket.client.host if websocket.client else ""
        self._begun = anyio.current_time()
        self._ended = "client"
        self._waiting = anyio.CancelScope()
        self._is_going_away = False

    def facts(self) -> dict[str, Any]:
        """For the log."""
        listener = self._form.listener
        return {
            "client": self.client,
            "path": self._websocket.url.path,
            "audio_seconds": round(listener.seconds, 2),
            "seconds": round(anyio.current_time() - self._begun, 2),
            "compute": str(listener.last_point),
            "ended": self._ended,
        }

    async def run(self) -> None:
        """Until the client leaves, has what it asked for, or is told why not."""
        try:
            await self.end(await self._talk())
        except (WebSocketDisconnect, TimeoutError):  # gone, or as good as gone
            self._ended = "gone"
            await self._close(POLICY_VIOLATION, "events were not taken")
        except Exception:
            _LOG.exception("a live session failed")
            await self.end(_End(INTERNAL_ERROR, "server_error", "the server failed; connect again"))

    def go_away(self) -> None:
        """End as soon as what has come is heard."""
        self._is_going_away = True
        self._waiting.cancel()

    async def end(self, end: _End | None) -> None:
        """Close, and say why unless everything is done."""
        if end is None:
            await self._close(1000, "")
            return
        self._ended = end.code
        with anyio.move_on_after(FAREWELL_SECONDS):
            await self._try(self._tell(self._form.error(ClientError(end.code, end.message))))
        await self._close(end.status, end.message)

    async def _talk(self) -> _End | None:
        deadline = anyio.current_time() + self._limits.max_seconds
        await self._send(self._form.greeting())
        while not self._form.is_over:
            await anyio.lowlevel.checkpoint()  # a thousand messages in one packet leave others their turn
            message = await self._next_message()
            if message is None:
                return await self._part(self._why_silent())
            try:
                async for event in self._form.reply(message):
                    await self._send(event)
            except UserError as error:
                await self._send(self._form.error(error))
            if self._form.listener.seconds > self._limits.max_seconds or anyio.current_time() > deadline:
                limit = f"a live session lasts {self._limits.max_seconds:g} s at most; connect again"
                return await self._part(_End(POLICY_VIOLATION, "session_too_long", limit))
        return None

    async def _part(self, end: _End) -> _End:
        async for event in self._form.farewell():
            await self._send(event)
        return end

    def _why_silent(self) -> _End:
        if self._is_going_away:
            return _End(GOING_AWAY, "server_shutdown", "the server is going down; connect again")
        message = f"nothing came for {self._limits.idle_seconds:g} s; connect again when there is sound"
        return _End(POLICY_VIOLATION, "idle_timeout", message)

    async def _next_message(self) -> str | bytes | None:
        """None if nothing comes in time, or nothing is wanted. Raises WebSocketDisconnect."""
        if self._is_going_away:
            return None
        with anyio.move_on_after(self._limits.idle_seconds) as self._waiting:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            return message["text"] if message.get("text") is not None else message["bytes"]
        return None

    async def _send(self, event: dict[str, Any]) -> None:
        with anyio.fail_after(self._limits.send_seconds):
            await self._tell(event)

    async def _tell(self, event: dict[str, Any]) -> None:
        """A half surrogate, which JSON lets a client send and which it may be told again, has no UTF-8."""
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        await self._websocket.send_text(text.encode(errors="replace").decode())

    async def _close(self, status: int, reason: str) -> None:
        with anyio.move_on_after(FAREWELL_SECONDS):
            await self._try(self._websocket.close(status, _short(reason)))

    async def _try(self, sending: Awaitable[None]) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # RuntimeError: Starlette's behind a close
            await sending


def _short(reason: str) -> str:
    """As much as a close frame holds: 123 bytes."""
    return reason.encode()[:123].decode(errors="ignore")

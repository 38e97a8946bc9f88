"""The plain form of live transcription: blocks of samples in, JSON out.

    client                                      server
    (connects)                                  {"type": "ready", "model": ..., "sample_rate": 16000}
    binary: little-endian 16-bit mono samples   {"type": "partial", "text": ..., "stable": 2, "words": [...]}
                                                {"type": "final", "text": ..., "start": 0.2, "end": 4.1, "words": [...],
                                                 "compute": "squeeze=2"}
    {"type": "compute", "compute": "fast"}      {"type": "compute", "compute": "squeeze=4"}
    {"type": "finish"}                          the last finals, {"type": "done", "seconds": 12.5}, close with 1000

A partial takes the place of the one before; its first `stable` words stay. An operating point of null leaves the choice
to the server. What cannot be done is answered by {"type": "error", "code": ..., "message": ...}; the session goes on.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from sewkit.errors import UserError
from sewkit.serve.errors import shortened
from sewkit.serve.listener import Heard, Listener, Pcm16
from sewkit.serve.live import ClientError
from sewkit.streaming import Final


class PlainForm:
    """Binary blocks in, an object for each event out; a `Form`."""

    def __init__(self, listener: Listener, model: str):
        self.listener = listener
        self.is_over = False
        self._model = model
        self._samples = Pcm16()

    def greeting(self) -> dict[str, Any]:
        """See `Form.greeting`."""
        return {"type": "ready", "model": self._model, "sample_rate": self.listener.sample_rate}

    async def reply(self, message: str | bytes) -> AsyncIterator[dict[str, Any]]:
        """See `Form.reply`."""
        if isinstance(message, bytes):
            async for heard in self.listener.feed(self._samples.feed(message)):
                yield _told(heard)
            return
        command = read_object(message)
        if command.get("type") == "finish":
            async for event in self.farewell():
                yield event
            yield {"type": "done", "seconds": round(self.listener.seconds, 3)}
            self.is_over = True
        elif command.get("type") == "compute":
            self.listener.compute = self.listener.resolve(read_text(command, "compute"))
            yield {"type": "compute", "compute": self.listener.compute and str(self.listener.compute)}
        else:
            expected = 'binary blocks of samples, {"type": "finish"} or {"type": "compute", "compute": ...}'
            raise ClientError(
                "unknown_message", f"type {shortened(command.get('type'))} is not known; expected {expected}"
            )

    async def farewell(self) -> AsyncIterator[dict[str, Any]]:
        """See `Form.farewell`."""
        for heard in await self.listener.finish():
            yield _told(heard)

    def error(self, error: UserError) -> dict[str, Any]:
        """See `Form.error`."""
        return {"type": "error", "code": getattr(error, "code", "invalid_request"), "message": str(error)}


def _told(heard: Heard) -> dict[str, Any]:
    event = heard.event.to_dict()
    return {**event, "compute": str(heard.compute)} if isinstance(heard.event, Final) else event


def read_object(message: str) -> dict[str, Any]:
    """A JSON object. Raises ClientError for anything else."""
    try:
        value = json.loads(message)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ClientError("invalid_json", "a text message is no JSON object; expected one with a type")
    return value


def read_text(command: dict[str, Any], name: str) -> str | None:
    """A field that is a text, null or missing. Raises ClientError."""
    value = command.get(name)
    if value is not None and not isinstance(value, str):
        raise ClientError("invalid_value", f"{name} is {type(value).__name__}; expected a text or null", name)
    return value

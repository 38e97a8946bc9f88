"""Who may ask, and how much at a time."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import HTTPConnection

from sewkit.serve.errors import ApiError
from sewkit.serve.settings import Settings

RETRY = {"retry-after": "1"}


def is_key(settings: Settings, given: str) -> bool:
    """Whether this is the server's key, or it has none. It takes as long for any string."""
    if settings.api_key is None:
        return True
    wanted = settings.api_key.get_secret_value()
    return hmac.compare_digest(*(hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (given, wanted)))


def require_key(connection: HTTPConnection, settings: Settings) -> None:
    """Raises ApiError unless a request comes with `Authorization: Bearer KEY`."""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if not is_key(settings, given if scheme.lower() == "bearer" else ""):
        raise ApiError(
            401,
            "expected the server's API key, as Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


class Slots:
    """Requests for transcription on their way, in all and of each client."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._by_client: Counter[str] = Counter()

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """Held by a request until its end. Raises ApiError where there is none."""
        most = self._settings.max_per_client
        if most and self._by_client[client] >= most:
            raise ApiError(
                429,
                f"this client has {most} requests on their way, as many as may be",
                code="per_client",
                headers=RETRY,
            )
        if self._by_client.total() >= self._settings.max_requests:
            raise ApiError(429, "the server has as many requests as it holds", code="too_many", headers=RETRY)
        self._by_client[client] += 1
        try:
            yield
        finally:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]

"""A server on the loopback with live transcription and nothing else, in a thread."""

import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from sewkit import Compute, Recognizer
from sewkit.runtime import Runtime
from sewkit.serve.live import WEBSOCKET_OPTIONS, LiveLimits, LiveSessions
from sewkit.serve.realtime import live_router
from sewkit.serve.settings import Settings


@dataclass
class PlainHearing:
    """A recognizer with nobody else to serve; `affordable` is what finals run at, None for the dearest point."""

    recognizer: Recognizer
    affordable: Compute | None = None

    def point_for_finals(self, request: Compute | None) -> Compute:
        return self.recognizer.resolve(request or self.affordable)


class HeldRuntime:
    """Runs another runtime, but waits as long as `is_free` is not set."""

    def __init__(self, runtime: Runtime) -> None:
        self.config = runtime.config
        self.is_free = threading.Event()
        self._runtime = runtime

    def logits(self, waveforms: Sequence[np.ndarray], compute: Compute | None = None) -> list[np.ndarray]:
        assert self.is_free.wait(30)
        return self._runtime.logits(waveforms, compute)


class LiveServer:
    """Its address, without the scheme, and its sessions."""

    def __init__(self, sessions: LiveSessions, server: uvicorn.Server, portal: BlockingPortal):
        self.sessions = sessions
        self._server, self._portal = server, portal

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def in_loop(self, work: Callable[[], Awaitable[None]]) -> None:
        """Await `work()` in the server's event loop."""
        self._portal.call(work)

    def wait_until(self, is_so: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.01)


@contextmanager
def live_server(hearing: PlainHearing, limits: LiveLimits | None = None, **settings: object) -> Iterator[LiveServer]:
    sessions = LiveSessions(hearing, limits)
    app = FastAPI()
    app.include_router(live_router(sessions, "toy", Settings(**settings)))
    app.add_api_route("/health", lambda: "fine")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", **WEBSOCKET_OPTIONS))
    with start_blocking_portal() as portal:
        serving = portal.start_task_soon(server.serve)
        live = LiveServer(sessions, server, portal)
        live.wait_until(lambda: server.started)
        try:
            yield live
        finally:
            server.should_exit = True
            server.force_exit = True
            serving.result(20)

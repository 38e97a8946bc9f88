"""The application under uvicorn, with limits on what a connection may cost before it is a request."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h11
import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.supervisors import Multiprocess

from sewkit.errors import UserError
from sewkit.files import make_folder
from sewkit.serve.app import KEY_VARIABLE, SETTINGS_VARIABLE, create_app
from sewkit.serve.live import WEBSOCKET_OPTIONS
from sewkit.serve.logs import LOG_CONFIG
from sewkit.serve.metrics import MULTIPROCESS_FOLDER
from sewkit.serve.settings import Settings

MAX_HEAD_BYTES = 2**15
STARTING_SECONDS = 600
"""For a worker process to load and calibrate before it counts as hung."""


class PatientProtocol(H11Protocol):
    """uvicorn's, but the head of a request has to come within `header_seconds`: else the connection is closed.

    Without it, a client that sends a byte now and then holds its connection for as long as it likes.
    """

    header_seconds = 10.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The clock starts."""
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """It stops with the last byte of a head, and starts with the first of the next."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, error: Exception | None) -> None:
        """It stops."""
        self._stop()
        super().connection_lost(error)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def run(settings: Settings, host: str, port: int, workers: int = 1, trusted_proxies: str | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish what is on its way. Raises UserError, before the model is loaded."""
    _expect_address(host, port)
    if settings.scratch is not None:
        make_folder(Path(settings.scratch))
    PatientProtocol.header_seconds = settings.header_seconds
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "http": PatientProtocol,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "log_config": LOG_CONFIG,
        "access_log": False,
        "server_header": False,
        "proxy_headers": trusted_proxies is not None,
        "forwarded_allow_ips": trusted_proxies,
        **WEBSOCKET_OPTIONS,
    }
    if workers == 1:
        _run_here(settings, options)
    else:
        _run_workers(settings, workers, options)


def _expect_address(host: str, port: int) -> None:
    """Raises UserError where nothing can listen; uvicorn would tell only the log, once the model is loaded."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        socket.create_server(address[:2], family=family).close()
    except (OSError, UnicodeError) as error:  # the latter for what can be no name
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--host {host} --port {port}: expected an address of this machine and a free port, found that nothing can "
            f"listen there ({reason}); give another --port, 0 for any that is free, or another --host"
        ) from error


def _run_here(settings: Settings, options: dict[str, Any]) -> None:
    server = uvicorn.Server(uvicorn.Config(create_app(settings), **options))
    # Once it has shut down, uvicorn raises the signal again: a server that finished its work ends with status 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: None)
    server.run()


def _run_workers(settings: Settings, workers: int, options: dict[str, Any]) -> None:
    """Each worker process has a model and a governor of its own; the kernel deals connections out to them."""
    with ExitStack() as stack:
        os.environ[MULTIPROCESS_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory(prefix="sewkit-metrics-"))
        os.environ[SETTINGS_VARIABLE] = settings.model_dump_json(exclude={"api_key"})
        if settings.api_key is not None:
            os.environ[KEY_VARIABLE] = settings.api_key.get_secret_value()
        config = uvicorn.Config(
            "sewkit.serve.app:from_environment",
            factory=True,
            workers=workers,
            timeout_worker_healthcheck=STARTING_SECONDS,
            **options,
        )
        supervisor = _Supervisor(config, sockets=[config.bind_socket()])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise UserError("a worker cannot start, see its line in the log")


class _Supervisor(Multiprocess):
    """uvicorn's, but the end of a worker ends the wait for its answer.

    uvicorn holds both ends of the pipe to a worker open: if that dies it waits for STARTING_SECONDS, deaf to signals.
    """

    def keep_subprocess_alive(self) -> None:
        """See uvicorn."""
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()

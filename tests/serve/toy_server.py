"""Servers on loopback, in a thread of the test's process."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

import sewkit
from sewkit.serve.app import create_app
from sewkit.serve.server import PatientProtocol
from sewkit.serve.settings import Settings

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "recipes" / "serve"))  # what the recipes send, tests send in short form
CLIPS, EXAMPLES = ROOT / "tests" / "clips", ROOT / "examples"
Serve = Callable[..., str]
"""(recognizer, **settings) -> the address of a server that lasts as long as the test."""


@contextmanager
def serving(asr: sewkit.Recognizer, **settings: object) -> Iterator[str]:
    """A server's address."""
    head = settings.pop("header_seconds", 10.0)
    protocol = type("Protocol", (PatientProtocol,), {"header_seconds": head})
    app = create_app(Settings(calibration_runs=1, **settings), asr)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol, log_config=None, access_log=False, timeout_graceful_shutdown=10)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()

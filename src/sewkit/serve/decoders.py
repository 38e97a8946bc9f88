"""Uploads to samples, in processes that a hostile file may bring down: it costs one request, and a process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import Any

import numpy as np

from sewkit.errors import UserError
from sewkit.serve.metrics import Metrics
from sewkit.serve.settings import Settings

LARGE_BYTES = 4 * 2**20
"""Larger uploads leave one decoder to the others."""
DECODES = 2000
"""After so many a decoder is replaced, whatever its libraries may have left in memory."""


class UploadError(UserError):
    """An upload that is no audio, or brings its decoder down; too much of it; or there is no room for its samples.

    code: invalid_audio, audio_too_long or no_room, as clients are told.
    """

    def __init__(self, message: str, code: str = "invalid_audio"):
        super().__init__(message)
        self.code = code


class Decoders:
    """A pool of decoders. Each is started when it is first needed, and replaced when it fails."""

    def __init__(self, settings: Settings, metrics: Metrics):
        self._settings, self._metrics = settings, metrics
        self._idle: asyncio.LifoQueue[_Decoder | None] = asyncio.LifoQueue()
        for _ in range(settings.decode_workers):
            self._idle.put_nowait(None)
        self._for_large = asyncio.Semaphore(max(1, settings.decode_workers - 1))
        self._all: set[_Decoder] = set()

    async def decode(self, upload: Path) -> np.ndarray:
        """The samples of an upload, (num_samples,) float32 at 16 kHz, read from disk as they are used.

        They lie beside the upload, which is no longer needed. Raises UploadError.
        """
        if upload.stat().st_size <= LARGE_BYTES:
            return await self._decode(upload)
        async with self._for_large:
            return await self._decode(upload)

    async def close(self) -> None:
        """End all decoders."""
        for decoder in list(self._all):
            await self._end(decoder)

    async def _decode(self, upload: Path) -> np.ndarray:
        decoder = await self._idle.get()
        is_well = False
        try:
            if decoder is None or not decoder.is_alive:
                decoder = await self._replace(decoder)
            target = upload.with_suffix(".f32")
            reply = await asyncio.wait_for(decoder.ask(upload, target), self._settings.decode_seconds)
            is_well = True
        except (TimeoutError, asyncio.TimeoutError):
            self._metrics.decoder_restarts.labels("time").inc()
            raise UploadError("decoding it takes too long; convert it to wav or flac") from None
        except (OSError, EOFError):
            self._metrics.decoder_restarts.labels("crash").inc()
            raise UploadError("decoding it failed; download it again or convert it to wav or flac") from None
        finally:
            is_kept = decoder is not None and is_well and decoder.num_decoded < DECODES
            self._idle.put_nowait(decoder if is_kept else None)  # before what may be cancelled
            if decoder is not None and not is_kept:
                await self._end(decoder)
        if "error" in reply:
            raise UploadError(reply["error"], reply["code"])
        return np.memmap(target, np.float32, "r", shape=(reply["samples"],))

    async def _replace(self, dead: _Decoder | None) -> _Decoder:
        if dead is not None:
            self._metrics.decoder_restarts.labels("crash").inc()
            await self._end(dead)
        decoder = await _Decoder.start(self._settings)
        self._all.add(decoder)
        return decoder

    async def _end(self, decoder: _Decoder) -> None:
        self._all.discard(decoder)
        await decoder.end()


class _Decoder:
    """One process; it does one thing at a time."""

    def __init__(self, process: Process):
        self._process = process
        self.num_decoded = 0

    @classmethod
    async def start(cls, settings: Settings) -> _Decoder:
        limits = {"max_audio_seconds": settings.max_audio_seconds, "memory_bytes": settings.decode_memory_bytes}
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sewkit.serve.decoder", json.dumps(limits)),
            stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env={**os.environ, **single},
            start_new_session=True,  # Ctrl-C at a terminal ends the server, which ends its decoders
        )  # fmt: skip
        return cls(process)

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.returncode is None

    async def ask(self, source: Path, target: Path) -> dict[str, Any]:
        """Raises EOFError or OSError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"source": str(source), "target": str(target)}).encode() + b"\n")
        await self._process.stdin.drain()
        if not (line := await self._process.stdout.readline()):
            raise EOFError
        self.num_decoded += 1
        return json.loads(line)

    async def end(self) -> None:
        """At once."""
        if self.is_alive:
            self._process.kill()
        await self._process.wait()

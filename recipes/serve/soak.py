"""Soak a server in what it should not be sent, for a while: it stays healthy, and its memory flat.

All at once, until the time is up and so many bad uploads were sent: bad uploads (random bytes, truncated files, wrong
types, headers of huge claims, broken bodies, names that are paths), clients that are killed in the middle of an upload
or while they wait, connections that send a byte now and then (slow loris), and every second a good recording, whose
words have to be right. Memory and open files of the server are noted every few seconds.

    python recipes/serve/soak.py examples/digits.flac examples/digits.txt --seconds 600 --uploads 10000 -o soak

The exit status is 1 unless every good request got its words, no request failed the server (status 5xx), and memory in
the last quarter of the time is at most a tenth above that of the second.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from running import TRANSCRIPTIONS, Server, serving

from sewkit.bench.timing import environment
from sewkit.files import replacing

SAMPLE_SECONDS = 2.0
GROWTH = 1.1
NAMES = ("clip.wav", "../../etc/passwd", "/dev/zero", "a\x00b", "-rf", "x" * 1000, '"; rm -rf /')


def bad_uploads(good: bytes, random: np.random.Generator) -> dict[str, bytes]:
    """Files that are no recordings, each made anew: what is sent is hardly ever the same twice."""
    cut = int(random.integers(20, len(good) - 1000))
    flipped = bytearray(good)
    for place in random.integers(8, len(good), 50):
        flipped[place] ^= 0xFF
    form = struct.pack("<IHHIIHH", 16, 1, 65535, 48000, 2**32 - 1, 65535, 16)
    noise = random.bytes(int(random.integers(1, 20_000)))
    return {
        "nothing": b"",
        "random bytes": noise,
        "text": b"<html>not found</html>",
        "truncated": good[:cut],
        "damaged": bytes(flipped),
        "a true head and random bytes": good[: min(cut, 200)] + noise,
        "wav of huge claims": b"RIFF\xff\xff\xff\x7fWAVEfmt "
        + form
        + b"data"
        + struct.pack("<I", 2**31 - 2**17)
        + noise,
        "mp4 of nothing": b"\x00\x00\x00\x18ftypmp42" + noise,
        "matroska of nothing": b"\x1a\x45\xdf\xa3" + noise,
        "mpeg of nothing": b"\xff\xfb\x90\x00" + noise,
        "aac of nothing": b"\xff\xf1\x50\x80" + noise,
        "ogg of nothing": b"OggS\x00\x02" + noise,
        "an endless tag": b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f" + noise,
        "a playlist": b"#EXTM3U\nfile:///etc/passwd\n",
    }


@dataclass
class Soak:
    """One run, and what came of it."""

    url: str
    good: bytes
    text: str
    end: float
    most_bad: int
    bad: Counter[str] = field(default_factory=Counter)
    """By status, and by kind of what was not refused."""
    good_answers: Counter[str] = field(default_factory=Counter)
    loris_seconds: list[float] = field(default_factory=list)
    """How long slow connections were put up with."""
    killed: int = 0

    def is_over(self) -> bool:
        """Whether the time is up and enough was sent."""
        return time.monotonic() >= self.end and sum(self.bad.values()) >= self.most_bad

    async def send_bad(self, http: httpx.AsyncClient, seed: int, pause: float) -> None:
        """Bad uploads one after the other."""
        random = np.random.default_rng(seed)
        for turn in itertools.count():
            if self.is_over():
                return
            kinds = bad_uploads(self.good, random)
            kind = list(kinds)[(seed + turn) % len(kinds)]
            name = NAMES[int(random.integers(len(NAMES)))]
            try:
                answer = await http.post(f"{self.url}{TRANSCRIPTIONS}", files={"file": (name, kinds[kind])})
                status = answer.status_code
            except httpx.HTTPError as error:
                status = type(error).__name__
            # A file damaged in its last bytes may well be decoded.
            self.bad[str(status)] += 1
            if sum(self.bad.values()) >= self.most_bad:  # enough; the rest of the time goes slower
                await asyncio.sleep(pause)

    async def send_good(self, http: httpx.AsyncClient) -> None:
        """A recording every second."""
        while not self.is_over():
            try:
                answer = await http.post(f"{self.url}{TRANSCRIPTIONS}", files={"file": ("good", self.good)})
                is_right = answer.status_code == 200 and answer.json()["text"] == self.text
                self.good_answers["right" if is_right else f"status {answer.status_code}"] += 1
            except httpx.HTTPError as error:
                self.good_answers[type(error).__name__] += 1
            await asyncio.sleep(1.0)

    async def be_killed(self, seed: int) -> None:
        """Clients that go away in the middle."""
        random = np.random.default_rng(seed)
        head, body = self._request()
        while not self.is_over():
            _, writer = await self._connect()
            writer.write(head + body[: int(random.integers(0, 2 * len(body)))])  # half of them send all of it
            await asyncio.sleep(float(random.uniform(0, 0.3)))
            writer.transport.abort()
            self.killed += 1

    async def be_slow(self, is_in_head: bool) -> None:
        """A connection that sends a byte now and then, until it is cut off; then the next."""
        head, body = self._request()
        data = head if is_in_head else body
        while not self.is_over():
            begun = time.monotonic()
            reader, writer = await self._connect()
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                writer.write(b"" if is_in_head else head)
                for byte in data:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    if reader.at_eof() or self.is_over():
                        break
                    await asyncio.sleep(0.5)
            writer.transport.abort()
            if not self.is_over():
                self.loris_seconds.append(time.monotonic() - begun)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        where = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        return reader, writer

    def _request(self) -> tuple[bytes, bytes]:
        """(head, body) of a good upload."""
        part = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        body = part + self.good + b"\r\n--xx--\r\n"
        head = f"POST {TRANSCRIPTIONS} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        return (head + "Content-Type: multipart/form-data; boundary=xx\r\n\r\n").encode(), body


async def watched(server: Server, work: Awaitable[Any]) -> list[dict[str, float]]:
    """Memory and open files while the work goes on."""
    begun, samples = time.monotonic(), []
    task = asyncio.ensure_future(work)
    while not task.done():
        samples.append(
            {
                "seconds": round(time.monotonic() - begun, 1),
                "memory_mib": round(server.memory_mib(), 1),
                "open_files": server.open_files(),
            }
        )
        await asyncio.wait((task,), timeout=SAMPLE_SECONDS)
    task.result()
    return samples


async def run(server: Server, soak: Soak, clients: int, slow: int, pause: float) -> list[dict[str, float]]:
    """All at once; gives memory over time."""
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as http:
        await http.post(f"{soak.url}{TRANSCRIPTIONS}", files={"file": ("good", soak.good)})  # decoders start
        work = [soak.send_bad(http, seed, pause) for seed in range(clients)]
        work += [soak.send_good(http), soak.be_killed(1), *(soak.be_slow(number % 2 == 0) for number in range(slow))]
        return await watched(server, asyncio.gather(*work))


def verdict(soak: Soak, samples: list[dict[str, float]], is_healthy: bool) -> dict[str, Any]:
    """What is asked of the server, and whether it did."""

    def quarter(number: int) -> float:
        part = samples[number * len(samples) // 4 : (number + 1) * len(samples) // 4] or samples[-1:]
        return float(np.median([sample["memory_mib"] for sample in part]))

    failed = sum(count for status, count in soak.bad.items() if not status.isdigit() or int(status) >= 500)
    wrong = soak.good_answers.total() - soak.good_answers["right"]
    growth = quarter(3) / quarter(1)
    return {
        "is_well": is_healthy and not failed and not wrong and growth <= GROWTH,
        "bad_uploads": dict(soak.bad),
        "good_requests": dict(soak.good_answers),
        "killed_clients": soak.killed,
        "slow_connections": {
            "cut_off": len(soak.loris_seconds),
            "longest_seconds": max(soak.loris_seconds, default=None),
        },
        "memory_mib": {"second_quarter": quarter(1), "last_quarter": quarter(3), "growth": round(growth, 4)},
        "open_files": {"first": samples[0]["open_files"], "last": samples[-1]["open_files"]},
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path, help="a good one")
    parser.add_argument("text", type=Path, help="its words, as the model writes them")
    parser.add_argument("--model", default="sew-words")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--uploads", type=int, default=10_000, help="bad ones, at least")
    parser.add_argument("--clients", type=int, default=6, help="that send bad uploads")
    parser.add_argument("--slow", type=int, default=20, help="connections that send a byte now and then")
    parser.add_argument("--output", "-o", type=Path, default=Path("soak"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    log = args.output / "server.log"
    with serving(args.model, log, "--threads", "1", "--max-wait-ms", "600000") as server:
        soak = Soak(
            server.url,
            args.recording.read_bytes(),
            args.text.read_text().strip(),
            time.monotonic() + args.seconds,
            args.uploads,
        )
        samples = asyncio.run(run(server, soak, args.clients, args.slow, pause=0.2))
        is_healthy = httpx.get(f"{server.url}/ready", timeout=30).status_code == 200
    figures = {"environment": environment(), "seconds": args.seconds, **verdict(soak, samples, is_healthy)}
    with replacing(args.output / "soak.json") as draft:
        draft.write_text(json.dumps({**figures, "samples": samples}, indent=1) + "\n")
    print(json.dumps(figures, indent=1))
    sys.exit(0 if figures["is_well"] else 1)


if __name__ == "__main__":
    main()

"""What the recipes of the server share: a running `sewkit serve`, its memory and CPU time, models and uploads."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import soundfile

from sewkit.audio import SAMPLE_RATE
from sewkit.data.manifest import Utterance, load_utterance, read_manifest
from sewkit.errors import UserError

TRANSCRIPTIONS = "/v1/audio/transcriptions"
START_SECONDS = 600.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str

    def state(self) -> dict:
        """What `GET /v1/state` says."""
        return httpx.get(f"{self.url}/v1/state", timeout=30).json()

    def processes(self) -> list[int]:
        """The server and the processes under it."""
        found = [self.process.pid]
        for pid in found:
            for task in _listed(Path(f"/proc/{pid}/task")):
                found += [int(child) for child in _text(task / "children").split()]
        return found

    def memory_mib(self) -> float:
        """Resident, of all its processes; memory that they share counts in each."""
        pages = [_text(Path(f"/proc/{pid}/statm")).split() for pid in self.processes()]
        return sum(int(fields[1]) for fields in pages if fields) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def open_files(self) -> int:
        """Of the server itself."""
        return len(_listed(Path(f"/proc/{self.process.pid}/fd")))

    def cpu_seconds(self) -> float:
        """Used so far by all its processes, and by those that have ended under them."""
        ticks = 0
        for pid in self.processes():
            fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has just ended
        return ""


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


@contextmanager
def serving(model: str, log: Path, *options: str) -> Iterator[Server]:
    """`sewkit serve` on a port of its own; its log goes to a file. At the end it is stopped as systemd would."""
    command = [sys.executable, "-m", "sewkit", "serve", model, "--port", "0", *options]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stderr=stream)
    try:
        yield Server(process, _address(process, log))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            event = json.loads(line)["event"] if line.startswith("{") else ""
            if "running on" in event:
                return event.split()[3]
        time.sleep(0.1)
    raise UserError(f"the server did not start: {log.read_text()[-2000:]}")


@dataclass(frozen=True)
class Upload:
    """A recording to send, flac of 16 bits, and what is said in it."""

    data: bytes
    text: str
    seconds: float


def read_uploads(manifests: Sequence[Path], root: Path | None, most: int) -> list[Upload]:
    """Every so many of the manifests' rows, up to `most`."""
    rows = [row for manifest in manifests for row in read_manifest(manifest, root=root)]
    return [_upload(row) for row in rows[:: max(1, -(-len(rows) // most))]]


def _upload(row: Utterance) -> Upload:
    samples = load_utterance(row)
    file = io.BytesIO()
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return Upload(file.getvalue(), row.text, len(samples) / SAMPLE_RATE)


def random_model(name: str, folder: Path) -> Path:
    """A published size made stochastic, of random weights, with letters: its speed is real, its words are not."""
    import torch

    from sewkit.checkpoint import save_model
    from sewkit.config import PUBLISHED, Stochastic
    from sewkit.model import build_model
    from sewkit.text import Alphabet

    alphabet = Alphabet.english()
    torch.manual_seed(0)
    config = PUBLISHED[name].replace(vocab_size=len(alphabet), **Stochastic().model_dump())
    save_model(folder / name, build_model(config), alphabet)
    return folder / name

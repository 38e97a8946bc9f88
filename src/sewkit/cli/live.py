"""`sewkit transcribe --live`: sound that is still coming, from standard input or a microphone, as text."""

from __future__ import annotations

import queue
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sewkit.cli.options import print_json
from sewkit.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    import numpy as np

    from sewkit.streaming import Event, Stream

READ_BYTES = 2**16
MICROPHONE_BLOCK_SECONDS = 0.1
BEHIND_SECONDS = 5.0
"""When the work is so far behind the microphone, people are told."""
MOST_BEHIND_SECONDS = 60.0
"""Further behind, no more is listened to: what waits would grow without end."""

Live = Annotated[
    bool, typer.Option("--live", help="Transcribe raw 16-bit mono samples from standard input as they come.")
]
Microphone = Annotated[bool, typer.Option("--microphone", help="Transcribe what the microphone hears, as it comes.")]
SampleRate = Annotated[int, typer.Option(help="Of live sound, in Hz.")]


def run_live(stream: Stream, sample_rate: int, microphone: bool, as_json: bool) -> None:
    """Show the words of a stream until its sound ends, or until Ctrl-C, which still gives the last words."""
    blocks = microphone_blocks(sample_rate) if microphone else raw_blocks()
    with _screen(as_json) as show, stream, Interruptible() as interruptible:
        for block in interruptible(blocks):
            for event in stream.feed(block):
                show(event)
        for event in stream.finish():
            show(event)


# Sound


def raw_blocks() -> Iterator[np.ndarray]:
    """Standard input as it comes, int16 (num_samples,) from little-endian samples. Raises UserError."""
    import numpy as np

    if sys.stdin.isatty():
        raise UserError("--live expects raw 16-bit samples on standard input; pipe them in, or use --microphone")
    standard_input: Any = sys.stdin.buffer  # typed without read1, which gives what is there and does not wait for more
    data, is_checked, has_come = b"", False, False
    while chunk := standard_input.read1(READ_BYTES):
        data, has_come = data + chunk, True
        if not is_checked and len(data) >= 4:
            _expect_no_header(data)
            is_checked = True
        whole = len(data) // 2 * 2
        yield np.frombuffer(data[:whole], "<i2").astype(np.int16)
        data = data[whole:]
    if not has_come:
        raise UserError("--live expects raw 16-bit samples on standard input, which ended without one; pipe them in")


def _expect_no_header(data: bytes) -> None:
    if data.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3")):
        raise UserError("--live expects raw 16-bit samples, this is a file with a header; leave --live out for files")


def microphone_blocks(sample_rate: int) -> Iterator[np.ndarray]:
    """The default microphone, float32 (num_samples,); what has piled up comes as one block.

    Ends where too much has, see `MOST_BEHIND_SECONDS`. Raises UserError where no microphone opens.
    """
    import numpy as np

    sounddevice = _import_sounddevice()
    heard: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    try:
        recorder = sounddevice.InputStream(
            samplerate=sample_rate,
            channels=1,
            dtype="float32",
            blocksize=int(MICROPHONE_BLOCK_SECONDS * sample_rate),
            callback=lambda data, count, time, status: heard.put(data[:, 0].copy()),
        )
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(
            f"no microphone opens at {sample_rate} Hz ({error}); plug one in, try --sample-rate 48000, or use --live"
        ) from None
    with recorder:
        print("listening; Ctrl-C ends", file=sys.stderr)
        is_told = False
        while True:
            blocks = [heard.get(), *(heard.get() for _ in range(heard.qsize()))]
            behind = len(blocks) * MICROPHONE_BLOCK_SECONDS
            if behind > BEHIND_SECONDS and not is_told:
                print(f"sewkit: {behind:.0f} s behind: this machine is slower than the sound", file=sys.stderr)
                is_told = True
            yield np.concatenate(blocks)
            if behind > MOST_BEHIND_SECONDS:
                print("sewkit: too far behind, no longer listening; try --compute fast", file=sys.stderr)
                return


def _import_sounddevice() -> Any:
    try:
        return import_module("sounddevice")
    except ImportError:
        raise MissingExtraError("--microphone", "mic") from None
    except OSError:  # what sounddevice raises without the library that it wraps
        raise UserError(
            "--microphone needs the PortAudio library, which this system lacks; "
            "install it (Debian and Ubuntu: apt install libportaudio2), or pipe sound to --live"
        ) from None


class Interruptible:
    """Ctrl-C ends the waiting for sound, not the work on what has come; a second one ends everything."""

    def __init__(self) -> None:
        self._came = self._is_waiting = False

    def __enter__(self) -> Interruptible:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def __call__(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The blocks, until Ctrl-C."""
        iterator = iter(blocks)
        while not self._came:
            self._is_waiting = True
            try:
                block = next(iterator)
            except (StopIteration, KeyboardInterrupt):
                return
            finally:
                self._is_waiting = False
            yield block

    def _note(self, number: int, frame: FrameType | None) -> None:
        came_before, self._came = self._came, True
        if came_before or self._is_waiting:
            raise KeyboardInterrupt


# What is shown


@contextmanager
def _screen(as_json: bool) -> Iterator[Callable[[Event], None]]:
    """The function that shows an event: JSON lines, or finals as lines and on a terminal partials in place."""
    from rich.console import Console

    if as_json:
        yield lambda event: print_json(event.to_dict())
    elif (console := Console(highlight=False)).is_terminal:
        from rich.live import Live as InPlace

        with InPlace(console=console, auto_refresh=False, transient=True) as in_place:
            yield lambda event: _show_in_place(event, in_place)
    else:
        yield _print_final


def _print_final(event: Event) -> None:
    from sewkit.streaming import Final

    if isinstance(event, Final) and event.words:
        typer.echo(event.text)


def _show_in_place(event: Event, in_place: Any) -> None:
    """A final becomes a line; a partial stays below, its words that may still change dimmed."""
    from rich.text import Text

    from sewkit.streaming import Final

    if isinstance(event, Final):
        in_place.update(Text(), refresh=True)
        if event.words:
            in_place.console.print(Text(event.text))
        return
    texts = [word.text for word in event.words]
    stable, unstable = Text(" ".join(texts[: event.stable])), Text(" ".join(texts[event.stable :]), style="dim")
    in_place.update(Text(" ").join(part for part in (stable, unstable) if part), refresh=True)

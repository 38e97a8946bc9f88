"""SIGTERM and Ctrl-C end a run between two updates, with its state saved."""

import signal
from types import FrameType, TracebackType

EXIT_STATUS = 75
"""Of a command that was stopped and can go on: EX_TEMPFAIL, "try again later"."""


class Stopped(Exception):
    """The run was asked to stop, and has saved its state; the message says how to go on."""


class StopRequest:
    """Context manager: remembers that a signal came. A second one ends the process at once, as ever."""

    def __init__(self) -> None:
        self.signal = ""
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._note) or signal.SIG_DFL
            except ValueError:  # not in the main thread: whoever runs us there handles signals
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

"""The engine of one machine: worker processes that each read, decode and transcribe; no Ray.

A CPU worker does one thing after the other with one thread, so that the cores are full without anyone waiting for
another's memory or lock; recordings that come from a store, or go to a GPU, are read by a thread beside the model.
A worker that dies (a decoder that crashes on hostile sound, too little memory) is replaced. Its lots are done again
recording by recording; the recording at which a worker dies twice is a row with an error.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol, TypeAlias

from sewkit.bulk.listing import Lot
from sewkit.bulk.stages import (
    Decoded,
    LotResult,
    ModelSpec,
    Reader,
    Stopwatch,
    Suspects,
    Transcriber,
    died_of_it,
    pulled,
)
from sewkit.compute import Compute
from sewkit.errors import UserError

LOTS_A_WORKER = 2
"""That are with a worker: the one in the model and the next."""
MAX_IDLE_DEATHS = 3
"""Workers that may die in a row before any lot is done."""


class Engine(Protocol):
    """Runs the stages on lots, somewhere."""

    num_workers: int
    """Models that run at the same time."""
    num_machines: int

    def run(self, lots: Iterable[Lot], choose: Callable[[], Compute]) -> Iterator[LotResult]:
        """Results in any order, each lot once; `choose` says the operating point of the next lot."""

    def close(self) -> None:
        """Give back what it holds."""


@dataclass
class _Task:
    lot: Lot
    point: Compute
    is_careful: bool = False
    """Recording by recording, each announced before."""
    suspects: Suspects = field(default_factory=Suspects)


Message: TypeAlias = "LotResult | int | str | None"
"""From a worker: a result; the recording it is at; why it cannot work; that it is ready."""


class LocalEngine:
    """Worker processes, started at once and fed with lots. Raises UserError from `run` where they cannot work."""

    num_machines = 1

    def __init__(self, spec: ModelSpec, num_workers: int, devices: list[str] | None = None):
        self.num_workers = num_workers
        self._spec = spec
        self._devices: list[str] | list[str | None] = devices or [spec.device] * num_workers
        self._workers = [_Worker(self._spec, self._devices[index]) for index in range(num_workers)]

    def run(self, lots: Iterable[Lot], choose: Callable[[], Compute]) -> Iterator[LotResult]:
        """See `Engine.run`."""
        source, again = iter(lots), deque[_Task]()
        idle_deaths = 0
        while True:
            for worker in self._workers:
                worker.fill(source, again, choose)
            if not any(worker.tasks for worker in self._workers):
                return
            for index, worker in self._ready():
                result = worker.receive()
                if isinstance(result, LotResult):
                    idle_deaths = 0
                    yield result
                elif not worker.is_alive:
                    idle_deaths += not worker.was_ready
                    if idle_deaths >= MAX_IDLE_DEATHS:
                        raise UserError(f"worker processes die as they start ({worker.ending}); give fewer --workers")
                    again += worker.leftovers()
                    worker.close()
                    self._workers[index] = _Worker(self._spec, worker.device)

    def _ready(self) -> list[tuple[int, _Worker]]:
        busy = {worker.connection: (index, worker) for index, worker in enumerate(self._workers) if worker.tasks}
        return [busy[connection] for connection in wait(list(busy)) if isinstance(connection, Connection)]

    def close(self) -> None:
        """Ends the workers, whatever they are at."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """A process, the pipe to it, and the tasks it holds, oldest first."""

    def __init__(self, spec: ModelSpec, device: str | None):
        self.device = device
        context = multiprocessing.get_context("spawn")  # a forked torch may hold locks of threads that are gone
        self.connection, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_work, args=(theirs, spec, device), daemon=True)
        self._process.start()
        theirs.close()
        self.tasks: deque[_Task] = deque()
        self.is_alive, self.was_ready = True, False

    def fill(self, lots: Iterator[Lot], again: deque[_Task], choose: Callable[[], Compute]) -> None:
        """Hand it tasks until it has enough; those that a dead worker left come first."""
        while self.is_alive and len(self.tasks) < LOTS_A_WORKER:
            task = again.popleft() if again else None
            if task is None:
                lot = next(lots, None)
                if lot is None:
                    return
                task = _Task(lot, choose())
            self.tasks.append(task)
            with contextlib.suppress(OSError):  # it died: `receive` finds out
                self.connection.send(task)

    def receive(self) -> LotResult | None:
        """Its next message; a result is returned. Raises UserError if it cannot work at all."""
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            self.is_alive = False
            return None
        if isinstance(message, str):
            raise UserError(message)
        if isinstance(message, LotResult):
            self.tasks.popleft()
            return message
        self.was_ready = True
        if message is not None:
            self.tasks[0].suspects.at = message
        return None

    def leftovers(self) -> list[_Task]:
        """What it leaves behind when it is dead, to be done carefully."""
        for task in self.tasks:
            task.suspects.note_death()
            task.is_careful = True
        return list(self.tasks)

    @property
    def ending(self) -> str:
        """How it died."""
        self._process.join(5)
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self._process.kill()
        self._process.join()


# In the worker


def _work(connection: Connection, spec: ModelSpec, device: str | None) -> None:
    """Until the pipe closes, as it does when the parent ends, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            transcriber = Transcriber(replace(spec, device=device).load())
        except UserError as error:
            connection.send(str(error))
            return
        connection.send(None)
        # By a thread, so that it never waits to send a result to a parent that waits to send it a lot.
        tasks = pulled(_tasks(connection), LOTS_A_WORKER)
        first = next(tasks)
        transcriber.reads_beside = transcriber.is_on_gpu or not first.lot.is_local
        decoded = _read(chain([first], tasks), Reader())
        for task, sounds in pulled(decoded, 1) if transcriber.reads_beside else decoded:
            if sounds is None:
                connection.send(_singly(task, transcriber, connection))
            else:
                connection.send(transcriber.transcribe(sounds, task.point))


def _tasks(connection: Connection) -> Iterator[_Task]:
    while True:
        yield connection.recv()


def _read(tasks: Iterable[_Task], reader: Reader) -> Iterator[tuple[_Task, Decoded | None]]:
    """Tasks with their sound; those to be done carefully without."""
    for task in tasks:
        yield task, None if task.is_careful else reader.read(task.lot)


def _singly(task: _Task, transcriber: Transcriber, connection: Connection) -> LotResult:
    reader, crashed = Reader(), task.suspects.crashed

    def read(index: int, one: Lot) -> Decoded:
        connection.send(index)
        return Decoded(one, [died_of_it()], Stopwatch()) if index in crashed else reader.read(one)

    return transcriber.one_by_one(task.lot, task.point, read)


class InlineEngine:
    """In this process, one lot after the other; for samples, tests and debuggers."""

    num_workers = num_machines = 1

    def __init__(self, transcriber: Transcriber):
        self._transcriber = transcriber

    def run(self, lots: Iterable[Lot], choose: Callable[[], Compute]) -> Iterator[LotResult]:
        """See `Engine.run`."""
        reader = Reader()
        for lot in lots:
            yield self._transcriber.transcribe(reader.read(lot), choose())

    def close(self) -> None:
        """Nothing to give back."""

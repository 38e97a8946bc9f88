"""The engine of a cluster: the same stages as operators of Ray Data.

    lots -> map(reading actors) -> map(model actors, CPU or GPU) -> results, taken home by the program that started it

Ray Data keeps as many lots of sound in its object stores as fit, and lets readers wait for the models. Actors that die,
and nodes with all that was on them, are replaced, and what they held is done again; where a lost node is not replaced,
or new ones join, the operators are started anew for the nodes that there are.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

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
    read_carefully,
)
from sewkit.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    from sewkit.compute import Compute

LOCAL = "local"
"""The address that means: start a cluster of this machine."""
READING_SHARE = 0.1
"""Of a model's CPUs that its readers are given: what decoding takes of the time of a small model."""
MAX_BEGUN = 2
"""A lot that was begun more often, by actors that are no more, is read by a process that may die of it, and transcribed
recording by recording."""
CONNECT_SECONDS = 10.0
"""In which the head of a cluster has to answer."""
CHECK_SECONDS, GRACE_SECONDS = 2.0, 30.0
"""How often the size of the cluster is looked at, and how long it has to be another one: a node that was lost may be
replaced meanwhile."""
MAX_PULLED = 64
"""Results that wait to be written."""
MAX_BLOCKS = 10_000
"""In which lots are handed to Ray; each costs its scheduler a little."""


def connect(address: str) -> Any:
    """Ray, connected. Raises UserError where there is no such cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone unless the user says so
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("--ray", "cluster") from error
    if not ray.is_initialized():
        here: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
        try:
            _knock(address)
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **here)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"--ray {address}: no cluster to connect to ({_one_line(error)}); expected the address of its head, "
                f"auto on one of its nodes, or {LOCAL}"
            ) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at HOST:PORT; Ray itself goes on trying for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "://" not in address:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def cluster_size(spec: ModelSpec, address: str, workers: int | None) -> tuple[int, int]:
    """Models that run at the same time, and machines with a CPU to give."""
    ray = connect(address)
    machines = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    resources = ray.cluster_resources()
    models = resources.get("GPU", 0) if _on_gpu(ray, spec) else resources.get("CPU", 0) // (spec.threads or 1)
    return workers or max(1, int(models)), max(1, len(machines))


def _on_gpu(ray: Any, spec: ModelSpec) -> bool:
    return spec.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0


class RayEngine:
    """Ray Data on a cluster that is there, or is started here. Raises UserError where it cannot be had."""

    def __init__(self, spec: ModelSpec, address: str, workers: int | None = None):
        self._ray = connect(address)
        self._spec = spec
        self._size = partial(cluster_size, spec, address, workers)
        self.num_workers, self.num_machines = self._size()
        cpus = self._spec.threads or 1
        self._model_needs: dict[str, float] = (
            {"num_gpus": 1, "num_cpus": 1}
            if _on_gpu(self._ray, self._spec)
            else {"num_cpus": cpus * (1 - READING_SHARE)}
        )
        self._reader_needs = {"num_cpus": 1 if "num_gpus" in self._model_needs else cpus * READING_SHARE}

    def run(self, lots: Iterable[Lot], choose: Callable[[], Compute]) -> Iterator[LotResult]:
        """See `Engine.run`. Where the cluster has come to be of another size, its pipeline is built again for that.

        Ray waits for an actor that a lost node took with it until another node has room for it, and Ray Data may let
        all others wait for what that one was at. And a pipeline does not grow with its cluster.
        """
        left = {(lot.shard, lot.index): lot for lot in lots}
        while left:
            yield from self._pipeline(left, choose)
            self.num_workers, self.num_machines = self._size()

    def _pipeline(self, left: dict[tuple[str, int], Lot], choose: Callable[[], Compute]) -> Iterator[LotResult]:
        """Results of what is left, which is taken out of it; not of all where the cluster's size changes."""
        board, change = _board(self._ray, choose()), _Change(lambda: self._size()[0], self.num_workers)
        is_ending = False

        def check() -> None:
            nonlocal is_ending
            if not is_ending and change.is_lasting():
                is_ending = True
                self._end(board)

        try:
            for result in pulled(self._results(list(left.values()), board), MAX_PULLED, check, CHECK_SECONDS):
                if left.pop((result.lot.shard, result.lot.index), None) is not None:
                    yield result
                    board.write.remote(choose())
                check()
        except self._ray.exceptions.RayError as error:
            if not is_ending:
                raise UserError(f"the cluster gave up ({_one_line(error)}); the same command goes on") from error

    def _end(self, board: Any) -> None:
        """Ends the actors of a pipeline, also those that wait for room; and with them, by an error, the pipeline."""
        for actor in self._ray.get(board.actors.remote()):
            self._ray.kill(actor, no_restart=True)

    def _results(self, lots: Sequence[Lot], board: Any) -> Iterator[LotResult]:
        """Of each lot, in any order."""
        data, rows = self._ray.data, [{"lot": pickle.dumps(lot)} for lot in lots]
        pool = data.ActorPoolStrategy(min_size=1, max_size=self.num_workers, initial_size=self.num_workers)
        results = (
            data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
            .map(_Reading, fn_constructor_args=(board,), compute=pool, **self._reader_needs)
            .map(_Model, fn_constructor_args=(self._spec, board), compute=pool, **self._model_needs)
        )
        return (pickle.loads(row["result"]) for row in results.iter_rows())

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()


class _Change:
    """Whether a cluster has come to another size than a pipeline was built for, and has kept it for a while."""

    def __init__(self, measure: Callable[[], int], built_for: int):
        self._measure, self._built_for = measure, built_for
        self._seen, self._since = built_for, time.monotonic()
        self._checked = self._since

    def is_lasting(self) -> bool:
        """Looks every now and then."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return False
        self._checked, size = now, self._measure()
        if size != self._seen:
            self._seen, self._since = size, now
        return size != self._built_for and now - self._since >= GRACE_SECONDS


def _one_line(error: BaseException) -> str:
    """The last line of a message, which in Ray's says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class _Board:
    """Where models read at which operating point the next lot is run, and actors note what they are at."""

    def __init__(self, point: Compute):
        self._point = point
        self._begun: Counter[tuple[str, str, int]] = Counter()
        self._suspects: defaultdict[tuple[str, int], Suspects] = defaultdict(Suspects)
        self._actors: list[Any] = []

    def join(self, actor: Any) -> None:
        """A new actor of the pipeline, or one that was restarted."""
        self._actors.append(actor)

    def actors(self) -> list[Any]:
        return self._actors

    def write(self, point: Compute) -> None:
        self._point = point

    def read(self) -> Compute:
        return self._point

    def begin(self, stage: str, shard: str, index: int) -> int:
        """How often a lot was begun before."""
        self._begun[stage, shard, index] += 1
        return self._begun[stage, shard, index] - 1

    def announce(self, shard: str, index: int, place: int | None) -> None:
        """The recording of a lot that is next, None behind the last."""
        self._suspects[shard, index].at = place

    def crashed(self, shard: str, index: int) -> frozenset[int]:
        """The recordings of a lot that are given up, now that the actor that had it is no more."""
        self._suspects[shard, index].note_death()
        return self._suspects[shard, index].crashed


def _board(ray: Any, point: Compute) -> Any:
    """On the node of the program that writes it, which is lost only with it."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote(point)


class _Reading:
    """Ray Data's operator for reading, decoding and resampling."""

    def __init__(self, board: Any) -> None:
        import ray

        self._get, self._board = ray.get, board
        board.join.remote(ray.get_runtime_context().current_actor)
        self._reader = Reader()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        lot: Lot = pickle.loads(row["lot"])
        times_begun = self._get(self._board.begin.remote("read", lot.shard, lot.index))
        decoded = read_carefully(lot) if times_begun > MAX_BEGUN else self._reader.read(lot)
        return {"decoded": pickle.dumps(decoded)}


class _Model:
    """Ray Data's operator for the model."""

    def __init__(self, spec: ModelSpec, board: Any):
        import ray

        self._get, self._board = ray.get, board
        board.join.remote(ray.get_runtime_context().current_actor)
        self._transcriber = Transcriber(spec.load())

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        decoded: Decoded = pickle.loads(row["decoded"])
        lot, point = decoded.lot, self._get(self._board.read.remote())
        times_begun = self._get(self._board.begin.remote("transcribe", lot.shard, lot.index))
        careful = times_begun > MAX_BEGUN
        result = self._singly(decoded, point) if careful else self._transcriber.transcribe(decoded, point)
        return {"result": pickle.dumps(result)}

    def _singly(self, decoded: Decoded, point: Compute) -> LotResult:
        lot, get, board = decoded.lot, self._get, self._board
        crashed = get(board.crashed.remote(lot.shard, lot.index))

        def read(place: int, one: Lot) -> Decoded:
            get(board.announce.remote(lot.shard, lot.index, place))
            return Decoded(one, [died_of_it() if place in crashed else decoded.sounds[place]], Stopwatch())

        result = self._transcriber.one_by_one(lot, point, read)
        board.announce.remote(lot.shard, lot.index, None)
        result.watch.add(decoded.watch)
        return result

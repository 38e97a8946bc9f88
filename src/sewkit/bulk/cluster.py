"""The engine of a cluster: the same stages as operators of Ray Data.

    lots -> map(reading actors) -> map(model actors, CPU or GPU) -> results, taken home by the program that started it

Ray Data keeps as many lots of sound in its object stores as fit, and lets readers wait for the models. Actors that die,
and nodes with all that was on them, are replaced, and what they held is done again.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
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
        self.num_workers, self.num_machines = cluster_size(spec, address, workers)
        cpus = spec.threads or 1
        self._model_needs: dict[str, float] = (
            {"num_gpus": 1, "num_cpus": 1} if _on_gpu(self._ray, spec) else {"num_cpus": cpus * (1 - READING_SHARE)}
        )
        self._reader_needs = {"num_cpus": 1 if "num_gpus" in self._model_needs else cpus * READING_SHARE}

    def run(self, lots: Iterable[Lot], choose: Callable[[], Compute]) -> Iterator[LotResult]:
        """See `Engine.run`."""
        ray = self._ray
        rows = [{"lot": pickle.dumps(lot)} for lot in lots]
        if not rows:
            return
        board = _board(ray, choose())
        results = (
            ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS))
            .map(_Reading, fn_constructor_args=(board,), compute=self._pool(), **self._reader_needs)
            .map(_Model, fn_constructor_args=(self._spec, board), compute=self._pool(), **self._model_needs)
        )
        try:
            for row in results.iter_rows():
                yield pickle.loads(row["result"])
                board.write.remote(choose())
        except ray.exceptions.RayError as error:
            raise UserError(f"the cluster gave up ({_one_line(error)}); the same command goes on") from error

    def _pool(self) -> Any:
        return self._ray.data.ActorPoolStrategy(min_size=1, max_size=self.num_workers, initial_size=self.num_workers)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        self._ray.shutdown()


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

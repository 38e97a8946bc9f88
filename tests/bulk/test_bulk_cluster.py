"""Ray Data on a local cluster of two worker nodes: the same rows as one machine, also when a node dies in mid-run."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from toy_archive import rows_of, times_of, write_sounds

import sewkit
from sewkit.bulk import cluster, listing
from sewkit.bulk.job import Job, Options
from sewkit.bulk.listing import Entry, Lot
from sewkit.bulk.stages import Decoded, LotResult, ModelSpec, Stopwatch, Transcriber
from sewkit.bulk.storage import patiently
from sewkit.bulk.tally import Tally
from sewkit.compute import Compute
from sewkit.errors import UserError
from sewkit.testing import synthetic_speech

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

STORE_BYTES = 80 * 2**20


@pytest.fixture
def nodes() -> Iterator[Any]:
    """A head without CPUs, and two nodes with one each, all processes of this machine."""
    from ray.cluster_utils import Cluster

    # Ray allows a node half a minute to start, which on a busy machine takes more than one attempt.
    made = Cluster()
    patiently(lambda: made.add_node(num_cpus=0, object_store_memory=STORE_BYTES, include_dashboard=False), "head")
    for _ in range(2):
        patiently(lambda: made.add_node(num_cpus=1, object_store_memory=STORE_BYTES), "node")
    yield made
    made.shutdown()


def test_a_node_is_killed_in_mid_run_and_the_job_finishes_complete(
    run: Callable[..., dict[str, Any]],
    nodes: Any,
    archive: Path,
    tmp_path: Path,
    toy_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Texts, and times to the millisecond, are those of one machine."""
    monkeypatch.setattr(listing, "LOT_RECORDINGS", 2)
    monkeypatch.setattr(cluster, "GRACE_SECONDS", 1.0)  # the pipeline is built again for the node that is left
    write_sounds(archive, 40)
    (archive / "empty.wav").write_bytes(b"")
    killed: list[int] = []

    def kill_one(tally: Tally) -> None:
        if tally.num_done >= 4 and not killed:
            killed.append(tally.num_done)
            nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)

    spec = ModelSpec(str(toy_folder), device="cpu")
    options = Options(str(archive), str(tmp_path / "ray"), spec, ray=nodes.address, shard_recordings=4)
    report = Job(options, kill_one).run()
    assert killed
    assert killed[0] < 41
    assert report["errors"] == {"unreadable": 1}
    run()
    found, expected = rows_of(tmp_path / "ray"), rows_of(tmp_path / "out")
    assert len(found) == 41
    assert {name: (row["text"], row["words"] and times_of(row)) for name, row in found.items()} == {
        name: (row["text"], row["words"] and times_of(row)) for name, row in expected.items()
    }


class Board:
    """`_Board` as its handle in Ray looks, in this process."""

    def __init__(self) -> None:
        self._board = cluster._Board(Compute(2))

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._board, name))


def test_a_recording_that_kills_model_actors_is_given_up_and_its_lot_is_done(
    toy: sewkit.Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call is an actor's, which dies in the middle: of the deadly recording, whatever shares its lot."""

    class Died(BaseException):
        pass

    monkeypatch.setattr("ray.get", lambda value: value)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(current_actor=None))
    board, deaths = Board(), 0
    together = Transcriber._together

    def deadly(self: Transcriber, sounds: Any, point: Compute) -> Any:
        if any(len(sound) == 8000 for sound in sounds):
            raise Died
        return together(self, sounds, point)

    monkeypatch.setattr(Transcriber, "_together", deadly)
    sounds: list[Any] = [synthetic_speech(count, seed=count) for count in (6000, 7000, 8000, 9000)]
    lot = Lot("shard", 0, tuple(Entry(f"{len(sound)}.wav", (), None) for sound in sounds))
    row = {"decoded": pickle.dumps(Decoded(lot, sounds, Stopwatch()))}
    while True:
        try:
            result: LotResult = pickle.loads(cluster._Model(SimpleNamespace(load=lambda: toy), board)(row)["result"])
            break
        except Died:
            deaths += 1
    assert deaths == cluster.MAX_BEGUN + 3
    assert [row["error_kind"] for row in result.rows] == [None, None, "crashed", None]
    assert [row["text"] for row in result.rows if row["error"] is None] == [
        toy.transcribe(sound).text for sound in sounds if len(sound) != 8000
    ]


def test_an_address_without_a_cluster_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--ray 127\.0\.0\.1:1: no cluster"):
        cluster.connect("127.0.0.1:1")

"""Ray Data on a local cluster of two worker nodes: the same rows as one machine, also when a node dies in mid-run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_archive import rows_of, times_of, write_sounds

from sewkit.bulk import cluster, listing
from sewkit.bulk.job import Job, Options
from sewkit.bulk.stages import ModelSpec
from sewkit.bulk.storage import patiently
from sewkit.bulk.tally import Tally
from sewkit.errors import UserError

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


def test_an_address_without_a_cluster_is_said_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--ray 127\.0\.0\.1:1: no cluster"):
        cluster.connect("127.0.0.1:1")

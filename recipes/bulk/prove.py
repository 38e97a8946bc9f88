"""Prove what `sewkit bulk` claims on an archive of `make_archive.py`, and write the figures as JSON.

    python recipes/bulk/make_archive.py --output ARCHIVE --recordings 20000 --bad 500
    python recipes/bulk/prove.py --archive ARCHIVE --work WORK --output bulk.json [--claims kills,budget]

    throughput  the whole archive on this machine: share of the cores' time in decoding and in the model, peak memory
                early and at the end, error rows against the archive's truth.jsonl, exit status
    kills       kill -9 of the whole job at five random moments, each time gone on with: complete, nothing twice, the
                same bytes as `throughput` wrote
    ray         the same on a local Ray cluster of two worker nodes, one of which is killed in mid-run: complete, the
                same texts and times, overhead against `throughput`
    budget      a stochastic model (--stochastic, or one of random weights in the bundled model's size) under
                --finish-by: its shortest and longest time are measured, then three deadlines between them are set

`throughput` comes first, as the others compare with it. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

from sewkit.bulk import read_rows

CLAIMS = ("throughput", "kills", "ray", "budget")
KILLS = 5
SHARES = (0.25, 0.5, 0.75)
"""Of the way from the shortest to the longest time: the deadlines."""
STORE_BYTES = 500 * 2**20


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the outputs of the jobs, empty at first")
    parser.add_argument("--output", type=Path, required=True, help="the figures, JSON; those of other claims are kept")
    parser.add_argument("--claims", default=",".join(CLAIMS))
    parser.add_argument("--model", default="sew-words")
    parser.add_argument("--stochastic", help="a stochastic model for `budget`")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for claim in arguments.claims.split(","):
        print(f"{claim} ...", file=sys.stderr)
        figures[claim] = globals()[f"prove_{claim}"](arguments)
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n")
        print(json.dumps({claim: figures[claim]}, indent=1))


def prove_throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    """One uninterrupted run."""
    output = arguments.work / "whole"
    process = start(arguments, output)
    memory = Memory(process.pid)
    with memory:
        status = process.wait()
    report = json.loads((output / "summary.json").read_text())
    rows = {row["recording"]: row for row in read_rows(str(output))}
    bad = truth(arguments.archive)
    wrong = [name for name, kind in bad.items() if (rows[name]["error"] is not None) != (kind is not None)]
    return {
        "exit_status": status,
        "recordings": len(rows),
        "error_rows": report["errors"],
        "rows_against_truth": len(wrong),
        "audio_hours": report["audio_hours"],
        "seconds": report["run"]["seconds"],
        "audio_hours_per_hour": report["run"]["audio_hours_per_hour"],
        "efficiency": report["run"]["efficiency"],
        "stage_cpu_seconds": report["run"]["stage_cpu_seconds"],
        "memory_mib": memory.figures(),
    }


def prove_kills(arguments: argparse.Namespace) -> dict[str, Any]:
    """Five that are killed, and a last one."""
    output, whole = arguments.work / "killed", arguments.work / "whole"
    whole_seconds = json.loads((whole / "summary.json").read_text())["run"]["seconds"]
    draw = random.Random(arguments.seed)
    kills = []
    for _ in range(KILLS):
        process = start(arguments, output)
        time.sleep(draw.uniform(0.05, 0.35) * whole_seconds)
        kill_all(process)
        kills.append(len(list(output.glob("shard-*"))))
    status = start(arguments, output).wait()
    shards = {path.name: path.read_bytes() for path in output.glob("shard-*")}
    expected = {path.name: path.read_bytes() for path in whole.glob("shard-*")}
    names = Counter(row["recording"] for row in read_rows(str(output)))
    return {
        "kills": KILLS,
        "shards_when_killed": kills,
        "exit_status": status,
        "recordings": len(names),
        "missing": len(truth(arguments.archive).keys() - names.keys()),
        "duplicates": sum(count > 1 for count in names.values()),
        "same_bytes_as_uninterrupted": shards == expected,
        "different": different(output, whole),
        "leftover_drafts": len(list(output.glob(".*"))),
    }


def prove_ray(arguments: argparse.Namespace) -> dict[str, Any]:
    """Two on a cluster, one of them losing a node."""
    from ray.cluster_utils import Cluster

    from sewkit.bulk.job import Job, Options
    from sewkit.bulk.stages import ModelSpec
    from sewkit.bulk.tally import Tally

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    for _ in range(2):
        cluster.add_node(num_cpus=max(1, arguments.workers // 2), object_store_memory=STORE_BYTES)
    whole = json.loads((arguments.work / "whole" / "summary.json").read_text())
    figures: dict[str, Any] = {}
    killed: list[int] = []

    def kill_one(tally: Tally) -> None:
        if not killed and tally.num_done > tally.num_recordings / 3:
            killed.append(tally.num_done)
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    spec = ModelSpec(arguments.model, device="cpu", threads=arguments.threads)
    for name, on_progress in (("undisturbed", lambda tally: None), ("node_killed", kill_one)):
        output = arguments.work / f"ray-{name}"
        options = Options(str(arguments.archive / "recordings"), str(output), spec, ray=cluster.address)
        report = Job(options, on_progress).run()
        figures[name] = {
            "seconds": report["run"]["seconds"],
            "audio_hours_per_hour": report["run"]["audio_hours_per_hour"],
            "recordings": report["done"],
            "errors": report["errors"],
            "missing": len(truth(arguments.archive).keys() - {row["recording"] for row in read_rows(str(output))}),
            "different": different(output, arguments.work / "whole"),
        }
    cluster.shutdown()
    figures["overhead"] = figures["undisturbed"]["seconds"] / whole["run"]["seconds"] - 1
    figures["killed_at_recording"] = killed[0] if killed else None
    return figures


def prove_budget(arguments: argparse.Namespace) -> dict[str, Any]:
    """The two ends, and deadlines between them; the dear end is what the job spends when nothing presses."""
    model = arguments.stochastic or random_stochastic(arguments.work / "stochastic")
    times = {}
    for name, option in (("fast", ("--compute", "fast")), ("unhurried", ("--finish-by", "+24h"))):
        output = arguments.work / f"budget-{name}"
        start(arguments, output, *option, model=model).wait()
        times[name] = json.loads((output / "summary.json").read_text())["run"]["seconds"]
    figures: dict[str, Any] = {"model": str(model), **{f"{name}_seconds": times[name] for name in times}}
    for share in SHARES:
        seconds = times["fast"] + share * (times["unhurried"] - times["fast"])
        output = arguments.work / f"budget-{share}"
        began = time.time()
        moment = datetime.fromtimestamp(began + seconds).isoformat()
        start(arguments, output, "--finish-by", moment, model=model).wait()
        took = time.time() - began
        points = json.loads((output / "summary.json").read_text())["operating_points"]
        figures[f"share {share}"] = {"allowed": seconds, "took": took, "ratio": took / seconds, "audio_hours": points}
    return figures


# Parts


def start(arguments: argparse.Namespace, output: Path, *more: str, model: object = None) -> subprocess.Popen[bytes]:
    """The job as a user starts it, in a process group of its own."""
    command = [sys.executable, "-m", "sewkit", "bulk", str(arguments.archive / "recordings"), str(output)]
    command += ["--model", str(model or arguments.model), "--device", "cpu"]
    command += ["--workers", str(arguments.workers), "--threads", str(arguments.threads), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    return subprocess.Popen(command, start_new_session=True, env=environment, stdout=subprocess.DEVNULL)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of the program and its workers, at the same moment."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def truth(archive: Path) -> dict[str, str | None]:
    """Which recordings are bad, and how."""
    lines = (archive / "truth.jsonl").read_text().splitlines()
    return {row["recording"]: row["bad"] for row in map(json.loads, lines)}


def different(output: Path, expected: Path) -> int:
    """Recordings of which text or times (in milliseconds) are not as expected."""

    def heard(folder: Path) -> dict[str, Any]:
        rows = read_rows(str(folder))
        return {
            row["recording"]: (row["text"], [(word["start"], word["end"]) for word in row["words"] or []])
            for row in rows
        }

    found, wanted = heard(output), heard(expected)
    return sum(found.get(name) != wanted.get(name) for name in {*found, *wanted})


class Memory:
    """Resident memory of a process group, looked at each second."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._seen: list[tuple[float, float]] = []
        self._is_over = threading.Event()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        began = time.time()
        while not self._is_over.wait(1.0):
            self._seen.append((time.time() - began, group_mib(self._group)))

    def figures(self) -> dict[str, float]:
        """The most in each third of the run, MiB."""
        end = self._seen[-1][0] if self._seen else 0.0
        thirds = [
            [mib for at, mib in self._seen if third * end / 3 <= at <= (third + 1) * end / 3] for third in range(3)
        ]
        return {name: max(third, default=0.0) for name, third in zip(("first", "second", "last"), thirds, strict=True)}


def group_mib(group: int) -> float:
    """Proportional set size of all processes of a group: pages that they share count once."""
    total = 0
    # Processes of a session share its group, workers included.
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue  # it ended meanwhile
    return total / 2**10


def random_stochastic(folder: Path) -> Path:
    """A stochastic model of the bundled one's size with random weights."""
    import sewkit
    from sewkit.checkpoint import save_model
    from sewkit.config import Stochastic
    from sewkit.testing import toy_model

    if not folder.exists():
        bundled = sewkit.load(device="cpu")
        config = bundled.config.replace(**Stochastic().model_dump())
        save_model(folder, toy_model(config), bundled.loaded.alphabet)
    return folder


if __name__ == "__main__":
    main()

"""Load a server with and without its governor, in the same run: times, words and operating points by offered load.

Two servers of the same model run side by side, and take turns at being loaded: one whose governor chooses the operating
point, one that runs everything at `full`. First the capacity at `full` and at the cheapest point is measured, with so
many clients that the server never idles; their ratio is R. Then, for each load, requests are sent at random times
(Poisson arrivals, as many as the load asks for) whether or not earlier ones have come back, and times count from when a
request was due: a client that falls behind makes the server's times longer, never shorter. Loads are multiples of the
capacity at `full`.

The fixed server breaks at the first load at which less than 95 % of the requests come back in time. The load that the
governor should hold, 0.8 R times as much, is added to the sweep.

    python recipes/serve/load_test.py recipes/bundled/test-*.jsonl --data-root data -o load-test
    python recipes/serve/load_test.py data/speech/librispeech-excerpt/manifest.jsonl --model sew-tiny \\
        --target-p95-ms 4000 -o load-test-sew-tiny

A published size as the model means one of random weights, made stochastic: its speed is real, its words are not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from running import TRANSCRIPTIONS, Server, Upload, random_model, read_uploads, serving

from sewkit.bench.timing import environment
from sewkit.config import PUBLISHED
from sewkit.evaluate.wer import wer_with_interval
from sewkit.files import replacing

IN_TIME = 0.95
"""A server holds a load while at least so many of the requests come back in time."""
GENEROUS_SECONDS = 180.0
"""For the last answers after the last request was sent."""


@dataclass(frozen=True)
class Answer:
    """What became of a request; seconds from when it was due. Status 0: no answer."""

    status: int
    seconds: float
    text: str = ""
    compute: str = ""
    lateness: float = 0.0
    """Of the client in sending it."""


async def send(client: httpx.AsyncClient, url: str, upload: Upload, due: float, **fields: str) -> Answer:
    """One request, due at a moment of `time.perf_counter`."""
    await asyncio.sleep(max(0.0, due - time.perf_counter()))
    lateness = time.perf_counter() - due
    try:
        files = {"file": ("clip.flac", upload.data)}
        answer = await client.post(f"{url}{TRANSCRIPTIONS}", files=files, data=fields)
    except httpx.HTTPError:
        return Answer(0, time.perf_counter() - due, lateness=lateness)
    seconds = time.perf_counter() - due
    text = answer.json()["text"] if answer.status_code == 200 else ""
    return Answer(answer.status_code, seconds, text, answer.headers.get("x-sewkit-compute", ""), lateness)


def client() -> httpx.AsyncClient:
    """One that opens as many connections as it needs."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(limits=limits, timeout=GENEROUS_SECONDS)


async def capacity(server: Server, uploads: Sequence[Upload], compute: str, seconds: float, clients: int) -> float:
    """Seconds of sound that are done in a second at one operating point."""
    random = np.random.default_rng(0)
    done = 0.0
    begun = time.perf_counter()

    async def keep_asking(http: httpx.AsyncClient) -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds:
            upload = uploads[random.integers(len(uploads))]
            answer = await send(http, server.url, upload, time.perf_counter(), compute=compute)
            if answer.status != 200:
                raise SystemExit(f"status {answer.status} while capacity is measured; give fewer --clients")
            done += upload.seconds

    async with client() as http:
        await asyncio.gather(*(keep_asking(http) for _ in range(clients)))
    return done / (time.perf_counter() - begun)


async def load(
    server: Server, uploads: Sequence[Upload], sound_rate: float, seconds: float, target: float, seed: int
) -> dict[str, Any]:
    """Requests at random times, on average `sound_rate` seconds of sound a second; and how the server did."""
    random = np.random.default_rng(seed)
    rate = sound_rate / float(np.mean([upload.seconds for upload in uploads]))
    # Given how many they are, the arrivals of a Poisson process are uniform in time: with as many as are expected, and
    # all recordings in turn, the load is the one that was asked for, in a short time too.
    offsets = np.sort(random.uniform(0.0, seconds, max(1, round(rate * seconds))))
    turns = [random.permutation(len(uploads)) for _ in range(-(-len(offsets) // len(uploads)))]
    chosen = [uploads[index] for index in np.concatenate(turns)[: len(offsets)]]
    begun, cpu, server_cpu = time.perf_counter() + 0.2, _cpu_seconds(), server.cpu_seconds()
    async with client() as http:
        sent = (send(http, server.url, one, begun + offset) for one, offset in zip(chosen, offsets, strict=True))
        answers = await asyncio.gather(*sent)
    wall = time.perf_counter() - begun
    facts = describe(answers, chosen, target)
    facts["generator_cpu_share"] = (_cpu_seconds() - cpu) / wall
    facts["server_cpu_share"] = (server.cpu_seconds() - server_cpu) / wall
    facts["seconds"] = wall
    facts["sound_per_second"] = sum(upload.seconds for upload in chosen) / seconds
    facts["seconds_to_full"] = await _seconds_to_full(server)
    return facts


def describe(answers: Sequence[Answer], uploads: Sequence[Upload], target: float) -> dict[str, Any]:
    """Figures of one load on one server. Requests that were not answered count as not in time."""
    good = [(answer, upload) for answer, upload in zip(answers, uploads, strict=True) if answer.status == 200]
    times = [answer.seconds for answer, _ in good]
    sound: Counter[str] = Counter()
    for answer, upload in good:
        sound[answer.compute] += upload.seconds
    wer = wer_with_interval([upload.text for _, upload in good], [answer.text for answer, _ in good]) if good else None
    return {
        "requests": len(answers),
        "statuses": dict(Counter(answer.status for answer in answers)),
        "lost": sum(answer.status not in (200, 429) for answer in answers),
        "share_in_time": sum(seconds <= target for seconds in times) / max(1, len(answers)),
        **{f"p{q}_ms": round(1e3 * float(np.percentile(times, q)), 1) if times else None for q in (50, 95, 99)},
        "wer": None if wer is None else wer.rate,
        "wer_interval": None if wer is None else [wer.low, wer.high],
        "share_of_sound": {point: seconds / sum(sound.values()) for point, seconds in sound.most_common()},
        "client_lateness_p99_ms": round(1e3 * float(np.percentile([one.lateness for one in answers], 99)), 1),
    }


async def _seconds_to_full(server: Server, most: float = 60.0) -> float | None:
    """From the last answer until the server would run at its dearest point again."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < most:
        state = server.state()
        if state["compute"] == [point["point"] for point in state["points"] if point["used"]][-1]:
            return round(time.perf_counter() - begun, 2)
        await asyncio.sleep(0.1)
    return None


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def measure(
    governed: Server, fixed: Server, uploads: Sequence[Upload], args: argparse.Namespace
) -> dict[str, Any]:
    """Capacities, then both servers at every load."""
    full = fixed.state()["compute"]
    cheapest = next(point["point"] for point in governed.state()["points"] if point["used"])
    capacities: dict[str, float] = {}
    for point in (full, cheapest):
        await capacity(fixed, uploads, point, 2.0, args.clients)  # warm-up
        capacities[point] = await capacity(fixed, uploads, point, args.capacity_seconds, args.clients)
        print(f"capacity at {point}: {capacities[point]:.1f} s of sound a second", flush=True)
    ratio = capacities[cheapest] / capacities[full]
    target = args.target_p95_ms / 1e3
    rows: list[dict[str, Any]] = []

    async def at(multiple: float) -> None:
        row: dict[str, Any] = {"load": multiple}
        for name, server in (("governed", governed), ("fixed", fixed)):
            row[name] = await load(
                server, uploads, multiple * capacities[full], args.seconds_per_load, target, len(rows)
            )
            print(told(name, multiple, row[name]), flush=True)
        rows.append(row)

    for multiple in args.loads:
        await at(multiple)
    broken = next((row["load"] for row in rows if row["fixed"]["share_in_time"] < IN_TIME), None)
    if broken is not None and (bound := round(0.8 * ratio * broken, 3)) not in args.loads:
        await at(bound)
    rows.sort(key=lambda row: row["load"])
    return {
        "capacities": capacities,
        "ratio": ratio,
        "target_p95_ms": args.target_p95_ms,
        "loads": rows,
        **verdict(rows, ratio, target),
    }


def verdict(rows: Sequence[dict[str, Any]], ratio: float, target: float) -> dict[str, Any]:
    """Up to where the governor should hold the objective, and whether it does."""
    broken = next((row["load"] for row in rows if row["fixed"]["share_in_time"] < IN_TIME), None)
    if broken is None:
        return {"fixed_breaks_at": None}
    bound = 0.8 * ratio * broken
    within = [row["governed"] for row in rows if row["load"] <= bound * 1.001]
    return {
        "fixed_breaks_at": broken,
        "bound": bound,
        "holds_to_bound": all(one["p95_ms"] is not None and one["p95_ms"] <= 1e3 * target for one in within),
        "refused_within_bound": sum(one["statuses"].get(429, 0) for one in within),
        "lost": sum(row[name]["lost"] for row in rows for name in ("governed", "fixed")),
        "slowest_recovery_seconds": max((row["governed"]["seconds_to_full"] or 60.0 for row in rows), default=None),
    }


def told(name: str, multiple: float, facts: dict[str, Any]) -> str:
    """A line of the table."""
    times = " ".join(f"{facts[f'p{q}_ms'] or float('nan'):8.0f}" for q in (50, 95, 99))
    points = ", ".join(f"{point} {share:.0%}" for point, share in list(facts["share_of_sound"].items())[:3])
    return (
        f"{multiple:5.2f}x {name:9} {facts['requests']:5} requests  p50 p95 p99 {times} ms  in time "
        f"{facts['share_in_time']:6.1%}  429 {facts['statuses'].get(429, 0):4}  WER {facts['wer'] or 0:6.1%}  {points}"
        f"  (generator {facts['generator_cpu_share']:.0%} of a core)"
    )


def plot(figures: dict[str, Any], path: Path) -> None:
    """p95, the share in time and, of a model that knows words, the error rate, by offered load."""
    from matplotlib.figure import Figure

    rows = figures["loads"]
    panels = {"p95_ms": "p95 (ms)", "share_in_time": "share answered in time", "wer": "word error rate"}
    if min(row[name]["wer"] for row in rows for name in ("governed", "fixed")) >= 1:
        del panels["wer"]  # random weights
    chart = Figure(figsize=(4 * len(panels), 3.6), layout="constrained")
    for axis, (key, label) in zip(chart.subplots(1, len(panels)), panels.items(), strict=True):
        for name, colour in (("governed", "#0b7285"), ("fixed", "#e8590c")):
            points = [(row["load"], row[name][key]) for row in rows]
            axis.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
        axis.set(xlabel="offered load / capacity at full compute", ylabel=label)
        axis.set_ylim(0, 1.05 if key == "share_in_time" else None)
        axis.grid(alpha=0.3)
        if figures.get("bound"):
            axis.axvline(figures["bound"], color="grey", linestyle=":", label="0.8 R x load that breaks the fixed")
        if key == "p95_ms":
            axis.axhline(figures["target_p95_ms"], color="grey", linestyle="--", label="objective")
            axis.legend(fontsize=8)
    for suffix in ("png", "svg"):
        with replacing(path.with_suffix(f".{suffix}")) as draft:
            chart.savefig(draft, format=suffix, dpi=150)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--model", default="sew-words")
    parser.add_argument("--uploads", type=int, default=200, help="different recordings")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.25, 0.5, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0])
    parser.add_argument("--seconds-per-load", type=float, default=30.0)
    parser.add_argument("--capacity-seconds", type=float, default=15.0)
    parser.add_argument("--clients", type=int, default=4, help="at a time, where capacity is measured")
    parser.add_argument("--target-p95-ms", type=float, default=500.0)
    parser.add_argument("--threads", type=int, default=1, help="of each server")
    parser.add_argument("--output", "-o", type=Path, default=Path("load-test"))
    args = parser.parse_args()
    uploads = read_uploads(args.manifests, args.data_root, args.uploads)
    args.output.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        model = args.model
        if model in PUBLISHED:
            model = str(random_model(model, Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        options = ["--target-p95-ms", str(args.target_p95_ms), "--threads", str(args.threads)]
        governed = stack.enter_context(serving(model, args.output / "governed.log", *options))
        fixed = stack.enter_context(serving(model, args.output / "fixed.log", *options, "--compute", "full"))
        figures = asyncio.run(measure(governed, fixed, uploads, args))
    figures["model"], figures["environment"] = args.model, {**environment(), "threads": args.threads}
    figures["uploads"] = {"number": len(uploads), "seconds": sorted(round(upload.seconds, 2) for upload in uploads)}
    figures["seconds_per_load"] = args.seconds_per_load
    with replacing(args.output / "load_test.json") as draft:
        draft.write_text(json.dumps(figures, indent=1) + "\n")
    plot(figures, args.output / "load_test.png")
    shown = {key: value for key, value in figures.items() if key not in ("loads", "environment", "uploads")}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()

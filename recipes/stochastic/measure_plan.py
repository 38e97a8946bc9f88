"""Does `sewkit plan` keep its word? Clips of the planned length are transcribed at the points it names, and counted.

Three budgets, each halfway (in ratio) between two neighbours of the front, in its three widest gaps: neighbours that
take nearly the same time no budget tells apart, as a run is slower than another by more than that. At each, the clips
alternate between the point that plan names and the next dearer one of the front: at least 92 % should keep a budget
that plan gives for a probability of 0.95, and of the next point fewer than 95 %. The device is calibrated anew.
On an idle machine; for the bundled model about three minutes a budget. Exit status 1 if the word is not kept.

    python recipes/stochastic/measure_plan.py runs/mine/model recipes/bundled/test-*.jsonl --data-root data \
        --threads 1 --output plan.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

import sewkit
from sewkit.audio import SAMPLE_RATE
from sewkit.bench.calibration import calibrations
from sewkit.bench.plan import Plan, best, estimates, plan
from sewkit.bench.timing import environment
from sewkit.data.manifest import load_utterance, read_manifest
from sewkit.errors import UserError

QUANTILE, ENOUGH = 0.95, 0.92


@dataclass(frozen=True)
class Kept:
    """How clips fared at a point; times in milliseconds."""

    point: str
    expected_ms: float
    """What plan gives as the time that 95 % keep."""
    median_ms: float
    quantile_ms: float
    share: float
    """Of the clips, those that kept the budget."""


@dataclass(frozen=True)
class Trial:
    """One budget."""

    budget_ms: float
    chosen: Kept
    next: Kept

    @property
    def is_kept(self) -> bool:
        """Both halves of the promise."""
        return self.chosen.share >= ENOUGH and self.next.share < QUANTILE


def front(plans: Sequence[Plan]) -> list[Plan]:
    """What `plan` names as the budget grows."""
    ordered = sorted(plans, key=lambda one: one.at_quantile)
    named = [best([one for one in plans if one.at_quantile <= last.at_quantile]) for last in ordered]
    return list(dict.fromkeys(named))


def cut(manifests: Sequence[Path], root: Path | None, seconds: float, count: int) -> list[np.ndarray]:
    """Clips of one length, from all recordings one after the other."""
    rows = [row for manifest in manifests for row in read_manifest(manifest, root=root)]
    whole, size = np.concatenate([load_utterance(row) for row in rows]), int(seconds * SAMPLE_RATE)
    if len(whole) < size:
        raise UserError(f"the recordings are {len(whole) / SAMPLE_RATE:.1f} s long together; expected {seconds:g} s")
    starts = np.linspace(0, len(whole) - size, count).astype(int)
    return [whole[start : start + size] for start in starts]


def kept(named: Plan, milliseconds: Sequence[float], budget_ms: float) -> Kept:
    """The figures of a point."""
    times = np.array(milliseconds)
    return Kept(
        point=str(named.compute),
        expected_ms=1e3 * named.at_quantile,
        median_ms=float(np.median(times)),
        quantile_ms=float(np.quantile(times, QUANTILE)),
        share=float((times <= budget_ms).mean()),
    )


def tried(asr: sewkit.Recognizer, clips: Sequence[np.ndarray], named: Plan, dearer: Plan, budget_ms: float) -> Trial:
    """All clips at both points in turn."""
    milliseconds: dict[Plan, list[float]] = {named: [], dearer: []}
    for clip in clips:
        for one, times in milliseconds.items():
            start = time.perf_counter()
            asr.transcribe(clip, compute=one.compute)
            times.append(1e3 * (time.perf_counter() - start))
    return Trial(budget_ms, *(kept(one, times, budget_ms) for one, times in milliseconds.items()))


def trials(asr: sewkit.Recognizer, clips: Sequence[np.ndarray], seconds: float, runs: int, count: int) -> list[Trial]:
    """At budgets in the widest gaps of the front. Raises UserError for a front of one point."""
    named = front(estimates(asr, calibrations(asr, seconds, runs), seconds, QUANTILE))
    if len(named) < 2:
        raise UserError(f"the front is one point, {named[0].compute}: there is nothing to choose between")
    found = []
    gaps = sorted(pairwise(named), key=lambda pair: pair[0].at_quantile / pair[1].at_quantile)[:count]
    for here, dearer in sorted(gaps, key=lambda pair: pair[0].at_quantile):
        budget = (here.at_quantile * dearer.at_quantile) ** 0.5
        assert plan(asr, budget, seconds, QUANTILE, runs).compute == here.compute
        found.append(tried(asr, clips, here, dearer, 1e3 * budget))
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--audio-seconds", type=float, default=10.0)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--budgets", type=int, default=3)
    parser.add_argument("--runs", type=int, default=20, help="of each point for the calibration")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path, help="JSON file")
    options = parser.parse_args()
    asr = sewkit.load(options.model, threads=options.threads)
    clips = cut(options.manifests, options.data_root, options.audio_seconds, options.clips)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        found = trials(asr, clips, options.audio_seconds, options.runs, options.budgets)
    for one in found:
        print(
            f"{one.budget_ms:.1f} ms: {one.chosen.point} kept by {one.chosen.share:.1%} "
            f"(median {one.chosen.median_ms:.1f} ms), {one.next.point} by {one.next.share:.1%}"
        )
    facts = {
        "model": options.model,
        "environment": environment(),
        "audio_seconds": options.audio_seconds,
        "clips": options.clips,
        "quantile": QUANTILE,
        "budgets": [{**asdict(one), "is_kept": one.is_kept} for one in found],
    }
    if options.output:
        options.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(one.is_kept for one in found) else 1)


if __name__ == "__main__":
    main()

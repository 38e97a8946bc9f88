"""`sewkit bulk` as a user meets it, and budgets on a stochastic model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_archive import rows_of, times_of
from typer.testing import CliRunner

import sewkit
from sewkit.bulk import job as jobs
from sewkit.bulk.budget import Budget
from sewkit.bulk.estimate import estimate
from sewkit.bulk.job import Options
from sewkit.bulk.listing import Clip, Entry
from sewkit.bulk.local import InlineEngine
from sewkit.bulk.stages import TRANSCRIBE, Decoded, LotResult, ModelSpec, Transcriber
from sewkit.bulk.tally import Measure, Tally
from sewkit.checkpoint import save_model
from sewkit.cli.bulk import clock, progress_line
from sewkit.cli.main import app
from sewkit.compute import Compute
from sewkit.errors import UserError
from sewkit.testing import TOYS, toy_model

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def bulk(archive: Path, tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def inline(options: Options) -> InlineEngine:
        return InlineEngine(Transcriber(options.model.load()))

    monkeypatch.setattr(jobs, "start_engine", inline)
    fixed = ["bulk", str(archive), str(tmp_path / "out"), "--model", str(toy_folder), "--device", "cpu"]
    return lambda *more: CliRunner().invoke(app, [*fixed, *more])


def test_a_summary_is_printed_and_the_exit_status_is_0(bulk: Callable[..., Any]) -> None:
    result = bulk()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("12 recordings, 0.00 h of audio")
    assert "read" in result.stdout


def test_an_error_makes_the_exit_status_1_and_is_counted_by_kind(bulk: Callable[..., Any], archive: Path) -> None:
    (archive / "empty.wav").write_bytes(b"")
    result = bulk()
    assert result.exit_code == 1
    assert "errors: 1 unreadable" in result.stdout
    assert json.loads(bulk("--json").stdout)["errors"] == {"unreadable": 1}


def test_a_dry_run_writes_nothing_and_says_time_and_cost(bulk: Callable[..., Any], tmp_path: Path) -> None:
    said = json.loads(bulk("--dry-run", "--json", "--price-per-hour", "2", "--workers", "2").stdout)
    assert not (tmp_path / "out").exists()
    assert said["recordings"] == said["sampled"] == 12
    assert said["audio_hours_error"] == 0
    (point,) = said["points"]
    assert point["cost"] == pytest.approx(2 * point["hours"])
    assert point["hours"] == pytest.approx(said["audio_hours"] / point["audio_hours_per_hour"])
    assert "h of audio per hour" in bulk("--dry-run").stdout


def test_a_model_that_does_not_transcribe_is_refused_before_any_work(bulk: Callable[..., Any], tmp_path: Path) -> None:
    save_model(
        tmp_path / "voices", toy_model(TOYS["sew"].replace(vocab_size=None, num_labels=3)), labels=("ann", "bob", "eve")
    )
    for more in ((), ("--dry-run",)):
        error = bulk("--model", str(tmp_path / "voices"), *more).exception
        assert isinstance(error, UserError)
        assert "classifies recordings (3 labels), it does not transcribe" in str(error)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_counts_the_model_once(
    archive: Path, tmp_path: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def a_second_for_each_ten(self: Transcriber, decoded: Decoded, point: Compute) -> LotResult:
        decoded.watch.wall[TRANSCRIBE] += len(decoded.sounds)
        rows = [{"audio_seconds": 10.0, "error_kind": None} for _ in decoded.sounds]
        return LotResult(decoded.lot, rows, str(point), decoded.watch, 10.0 * len(rows))

    monkeypatch.setattr(Transcriber, "transcribe", a_second_for_each_ten)
    options = Options(str(archive), str(tmp_path / "out"), ModelSpec(str(toy_folder), device="cpu"))
    (point,) = estimate(options, num_workers=1, num_machines=1).points
    assert point["audio_hours_per_hour"] == pytest.approx(10, rel=0.1), "reading takes some time, too"


def test_a_dry_run_without_a_good_recording_says_so(bulk: Callable[..., Any], archive: Path) -> None:
    for path in archive.rglob("*.wav"):
        path.write_bytes(b"no sound")
    with pytest.raises(sewkit.UserError, match="no recording of 12 can be transcribed, the first because"):
        raise bulk("--dry-run").exception


@pytest.mark.parametrize("wrong", [["-f", "xml"], ["--finish-by", "soon"], ["--refine"]])
def test_wrong_options_are_said(bulk: Callable[..., Any], wrong: list[str]) -> None:
    result = bulk(*wrong)
    assert isinstance(result.exception, sewkit.UserError)
    assert "\n" not in str(result.exception)


def test_the_progress_line_says_what_is_known() -> None:
    entries = [Entry(name, (Clip(name),), 1800.0) for name in ("a", "b", "c", "d")]
    tally = Tally(Measure(entries), 7200.0, 4, began=time.time() - 60)
    tally.done, tally.num_done, tally.audio_seconds, tally.run_audio_seconds = 3600.0, 2, 3600.0, 3600.0
    tally.errors["missing"] = 3
    line = progress_line(tally)
    for part in ("2 of 4 recordings", "1.00 h of audio", "60 h/h", "0:01:00 left", "3 missing", "transcribe 0%"):
        assert part in line
    assert clock(3661) == "1:01:01"


# Budgets


@pytest.fixture
def stochastic(stochastic_folder: Path) -> ModelSpec:
    return ModelSpec(str(stochastic_folder), device="cpu")


def test_with_ample_time_all_lots_but_the_first_ones_run_at_full_compute(
    run: Run, archive: Path, stochastic: ModelSpec
) -> None:
    report = run(model=stochastic, budget=Budget(time.time(), hours=10.0), shard_recordings=1)
    points = report["operating_points"]
    full = points.pop("squeeze=1")
    assert len(points) <= 2, "one lot to measure, one to see that the next better point is dearer"
    assert full > sum(points.values())
    assert report["late_seconds"] < 0


def test_without_time_everything_is_done_at_the_cheapest_point(run: Run, archive: Path, stochastic: ModelSpec) -> None:
    report = run(model=stochastic, budget=Budget(time.time() - 10, finish_by=time.time() - 5))
    assert set(report["operating_points"]) == {"squeeze=4,query_pool=2,kv_pool=2"}
    assert report["done"] == 12
    assert report["late_seconds"] > 0


def test_what_is_left_is_spent_on_the_least_confident_and_each_recording_keeps_one_row(
    run: Run, archive: Path, tmp_path: Path, stochastic: ModelSpec
) -> None:
    report = run(model=stochastic, budget=Budget(time.time(), hours=1.0), refine=True)
    asr = stochastic.load()
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12
    assert report["refined"] == 12
    assert report["operating_points"] == pytest.approx({"squeeze=1": report["audio_hours"]})
    for name, row in rows.items():
        expected = asr.transcribe(archive / name)
        assert row["text"] == expected.text
        assert [start for start, _ in times_of(row)] == [word.to_dict()["start"] for word in expected.words]
    assert run(model=stochastic, budget=Budget(time.time(), hours=1.0), refine=True)["refined"] == 0

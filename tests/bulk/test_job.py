"""A job on one machine: complete, resumable, the same every time, honest about what failed."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toy_archive import dying_after, rows_of, times_of, write_sounds

from sewkit.bulk import job as jobs
from sewkit.bulk import listing
from sewkit.bulk.job import Options
from sewkit.bulk.listing import Clip, Entry, Lot
from sewkit.bulk.local import LocalEngine
from sewkit.bulk.rows import Trouble
from sewkit.bulk.stages import ModelSpec, Stopwatch, read_carefully
from sewkit.errors import UserError
from sewkit.recognizer import Recognizer


def shards_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("shard-*")}


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_every_recording_has_a_row_with_what_transcribe_gives(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path, toy: Recognizer, format: str
) -> None:
    report = run(format=format)
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 12
    assert report["done"] == 12
    assert not report["errors"]
    for name, row in rows.items():
        expected = toy.transcribe(archive / name)
        assert row["text"] == expected.text
        assert [word["start"] for word in row["words"]] == [word.to_dict()["start"] for word in expected.words]
        assert row["audio_seconds"] == pytest.approx(expected.duration, abs=1e-9)
        assert row["operating_point"] == "squeeze=2"
        assert row["version"]
        assert row["error"] is None
        confidences = [word.confidence for word in expected.words]
        assert row["confidence"] == pytest.approx(np.mean(confidences), abs=2e-3)


@pytest.mark.parametrize("lots", [1, 3, 4])
def test_a_job_that_died_goes_on_to_the_same_bytes(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lots: int
) -> None:
    monkeypatch.setattr(listing, "LOT_RECORDINGS", 2)
    run(output=str(tmp_path / "whole"))
    with monkeypatch.context() as context:
        context.setattr(jobs, "start_engine", dying_after(lots))
        with pytest.raises(KeyboardInterrupt):
            run()
    assert len(shards_of(tmp_path / "out")) == lots // 2
    assert run()["done_before"] == 4 * (lots // 2)
    assert shards_of(tmp_path / "out") == shards_of(tmp_path / "whole")


def test_a_finished_job_does_nothing_again(run: Callable[..., dict[str, Any]], archive: Path) -> None:
    run()
    assert run()["run"]["audio_hours"] == 0


def test_recordings_that_came_later_are_added(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path
) -> None:
    run()
    write_sounds(archive, 15)
    assert run()["done_before"] == 12
    assert len(rows_of(tmp_path / "out")) == 15


def test_bad_files_are_rows_with_errors_by_kind(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path
) -> None:
    (archive / "empty.wav").write_bytes(b"")
    (archive / "text.flac").write_text("not found")
    (archive / "gone.ogg").symlink_to(tmp_path / "nowhere")
    soundfile.write(archive / "nan.wav", np.full(8000, np.nan, np.float32), 16_000, subtype="FLOAT")
    report = run()
    assert report["errors"] == {"unreadable": 3, "missing": 1}
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 16
    assert rows["gone.ogg"]["error_kind"] == "missing"
    assert rows["empty.wav"]["text"] is None
    assert "empty" in rows["empty.wav"]["error"]


def test_a_model_that_fails_on_one_recording_fails_on_it_alone(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurt = soundfile.info(archive / "0/003.wav").frames
    whole = Recognizer.transcribe_batch

    def sometimes(self: Recognizer, sources: Any, **rest: Any) -> Any:
        sources = list(sources)
        if any(len(source) == hurt for source in sources):
            raise RuntimeError("no memory\nfor this")
        return whole(self, sources, **rest)

    monkeypatch.setattr(Recognizer, "transcribe_batch", sometimes)
    assert run()["errors"] == {"failed": 1}
    assert rows_of(tmp_path / "out")["0/003.wav"]["error"] == "RuntimeError: no memory for this"


def test_another_model_or_setting_is_refused_unless_forced(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path, stochastic_folder: Path
) -> None:
    run()
    other = ModelSpec(str(stochastic_folder), device="cpu")
    with pytest.raises(UserError, match=r"other settings \(compute was .*model_sha256 was"):
        run(model=other)
    with pytest.raises(UserError, match="format was"):
        run(format="parquet")
    write_sounds(archive, 13)
    run(model=other, force=True)
    models = [row["model"] for row in rows_of(tmp_path / "out").values()]
    assert models.count(str(stochastic_folder)) == 1, "rows that were done stay"


def test_shards_without_a_job_are_refused(run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path) -> None:
    run()
    (tmp_path / "out" / "job.json").unlink()
    with pytest.raises(UserError, match="holds shards but no job"):
        run()


def test_long_recordings_are_streamed_to_the_same_words(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path, toy: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sewkit.bulk import stages

    monkeypatch.setattr(stages, "STREAMED_SECONDS", 11.0)
    long = np.concatenate([soundfile.read(archive / "0/003.wav", dtype="float32")[0]] * 30)
    soundfile.write(archive / "long.wav", long, 16_000)
    run()
    row = rows_of(tmp_path / "out")["long.wav"]
    assert row["text"] == toy.transcribe(archive / "long.wav").text


def test_summary_and_progress_are_written(run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path) -> None:
    report = run(price_per_hour=3600.0)
    assert json.loads((tmp_path / "out/summary.json").read_text()) == report
    assert (tmp_path / "out/summary.png").read_bytes().startswith(b"\x89PNG")
    progress = json.loads((tmp_path / "out/progress.json").read_text())
    assert progress["done"] == 12
    assert len(progress["runs"]) == 1
    assert report["cost"] == pytest.approx(report["machine_hours"] * 3600)
    assert sum(report["run"]["stage_share"].values()) == pytest.approx(1)
    assert run()["machine_hours"] > report["machine_hours"], "all runs are paid for"


@pytest.mark.slow
def test_workers_write_the_same_and_one_that_dies_of_a_recording_spares_the_others(
    run: Callable[..., dict[str, Any]], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kills a worker twice is a row with an error; the rest is as without it (words and milliseconds)."""
    run(output=str(tmp_path / "inline"))
    monkeypatch.setenv("SEWKIT_TEST_DEADLY", "003.wav")

    def engine(options: Options) -> LocalEngine:
        return LocalEngine(DeadlySpec(**vars(options.model)), 2)

    monkeypatch.setattr(jobs, "start_engine", engine)
    report = run(shard_recordings=6)
    assert report["errors"] == {"crashed": 1}
    rows, expected = rows_of(tmp_path / "out"), rows_of(tmp_path / "inline")
    assert rows.pop("0/003.wav")["error_kind"] == "crashed"
    for name, row in rows.items():
        assert (row["text"], times_of(row)) == (expected[name]["text"], times_of(expected[name]))


def test_lots_and_results_that_are_larger_than_a_pipe_do_not_wait_for_each_other(
    stochastic_folder: Path,
) -> None:
    spec = ModelSpec(str(stochastic_folder), device="cpu")
    point = spec.load().resolve(None)
    clip = Clip("/gone.wav")
    lots = [
        Lot("shard", i, tuple(Entry(f"{i}-{k}-".ljust(6000, "x"), (clip,), None) for k in range(64))) for i in range(4)
    ]
    engine, results = LocalEngine(spec, 1), []
    working = threading.Thread(target=lambda: results.extend(engine.run(lots, lambda: point)), daemon=True)
    working.start()
    working.join(60)
    engine.close()
    assert [result.lot.index for result in results] == [0, 1, 2, 3]


def die_of_the_second(entry: Entry) -> Any:
    if entry.name == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return np.zeros(len(entry.name), np.float32), Stopwatch()


def test_a_recording_that_kills_its_reader_is_a_trouble_and_the_others_are_read() -> None:
    lot = Lot("shard", 0, tuple(Entry(name, (Clip(name),), None) for name in ("a", "b", "cc")))
    first, second, third = read_carefully(lot, die_of_the_second).sounds
    assert isinstance(second, Trouble)
    assert second.kind == "crashed"
    assert [len(sound) for sound in (first, third) if isinstance(sound, np.ndarray)] == [1, 2]


class DeadlySpec(ModelSpec):
    """A model whose process dies when one recording is read."""

    def load(self) -> Recognizer:
        from sewkit.bulk import stages

        read = stages._read

        def deadly(entry: Any) -> Any:
            if entry.name.endswith(os.environ["SEWKIT_TEST_DEADLY"]):
                os.kill(os.getpid(), signal.SIGKILL)
            return read(entry)

        stages._read = deadly
        return ModelSpec(**vars(self)).load()


def test_options_that_do_not_go_together_are_refused(run: Callable[..., dict[str, Any]], archive: Path) -> None:
    from sewkit.bulk.budget import Budget

    with pytest.raises(UserError, match="--refine spends"):
        run(refine=True)
    with pytest.raises(UserError, match="leave one of them out"):
        run(compute="squeeze=2", budget=Budget(0.0, hours=1.0))
    with pytest.raises(UserError, match="expected one of them"):
        run(budget=Budget(0.0, hours=1.0, finish_by=1.0))

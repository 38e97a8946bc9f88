"""`sewkit sweep` on data: what each point's figures are of, what is written, and what is stored with the model."""

import csv
import json
import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

import sewkit
from sewkit.audio import AudioError
from sewkit.bench import memory
from sewkit.bench.memory import peak_mib
from sewkit.bench.passes import two_passes
from sewkit.bench.sweep import sweep
from sewkit.checkpoint import save_model
from sewkit.cli.main import app
from sewkit.compute import operating_points
from sewkit.data.manifest import read_manifest
from sewkit.errors import UserError
from sewkit.evaluate.manifest import evaluate_manifest
from sewkit.recognizer import Recognizer
from sewkit.testing import toy_model
from sewkit.text import Alphabet

CLIPS = Path(__file__).parents[1] / "clips"
NUM_CLIPS = 3


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows = [json.loads(line) for line in (CLIPS / "manifest.jsonl").read_text().splitlines()[:NUM_CLIPS]]
    path = tmp_path / "three.jsonl"
    path.write_text("".join(json.dumps({**row, "audio": str(CLIPS / row["audio"])}) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", toy_model("stochastic-sew"), Alphabet.english())
    return tmp_path / "model"


def invoke(*arguments: Any) -> Result:
    result = CliRunner().invoke(app, ["sweep", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        raise result.exception
    return result


def test_every_point_gets_the_error_rates_that_evaluate_gives_it(folder: Path, manifest: Path) -> None:
    asr = sewkit.load(folder)
    curve = sweep(asr, read_manifest(manifest), {"three": "00"})
    assert {point.point for point in curve.points} == set(map(str, operating_points(asr.config)))
    for point in curve.points[::5]:
        wer = evaluate_manifest(asr, manifest, compute=point.point).wer
        assert (point.wer, point.wer_low, point.wer_high) == (wer.rate, wer.low, wer.high)
    costs = {point.point: point.macs_per_second for point in curve.points}
    assert costs["squeeze=4,query_pool=2,kv_pool=2"] < costs["squeeze=1"]
    assert (curve.num_clips, curve.num_missing) == (NUM_CLIPS, 0)


def test_points_take_turns_and_every_clip_begins_with_another(
    folder: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asr = sewkit.load(folder)
    heard: list[str] = []
    transcribe = Recognizer.transcribe

    def noting(self: Recognizer, source: Any, *, compute: Any, refine: Any) -> Any:
        heard.append(str(compute))
        return transcribe(self, source, compute=compute)

    monkeypatch.setattr(Recognizer, "transcribe", noting)
    sweep(asr, read_manifest(manifest), {"three": "00"})
    points = [str(point) for point in operating_points(asr.config)]
    rounds = [heard[start : start + 16] for start in range(0, len(heard), 16)]
    assert rounds[0] == points  # the warm-up, cheapest first
    assert [one[0] for one in rounds[1:]] == points[:NUM_CLIPS]
    assert all(sorted(one) == sorted(points) for one in rounds)


def test_a_recording_that_cannot_be_read_is_named_and_in_no_figure(folder: Path, manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[1]["audio"] = "nowhere.wav"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    errors: list[AudioError] = []
    curve = sweep(sewkit.load(folder), read_manifest(manifest), {"three": "00"}, on_error=errors.append)
    assert (curve.num_clips, curve.num_missing, len(errors)) == (NUM_CLIPS - 1, 1, 1)


def test_the_command_writes_table_json_and_pictures_and_stores_the_curve(
    folder: Path, manifest: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    done = invoke(folder, manifest, "--store", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    names = ("sweep.csv", "sweep.json", "pareto.png", "pareto.svg")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    facts = json.loads((tmp_path / "out" / "sweep.json").read_text())
    with (tmp_path / "out" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["point"] for row in rows] == [point["point"] for point in facts["points"]]
    assert [row["point"] for row in rows if row["on_front"] == "1"] == facts["front"]
    assert (tmp_path / "out" / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "pareto.svg").read_text()
    asr = sewkit.load(folder)
    assert [str(point) for point in asr.compute_options] == [row["point"] for row in rows]
    assert {name: str(asr.resolve(name)) for name in ("full", "balanced", "fast")} == facts["names"]
    assert asr.loaded.curve is not None
    assert asr.loaded.curve.environment["date"]

    stored = json.loads((folder / "operating_points.json").read_text())
    stored["points"][-1].update(seconds_median=1e-9, wer=0.0)
    (folder / "operating_points.json").write_text(json.dumps(stored))
    again = invoke(folder, manifest, "--json")
    assert json.loads(again.stdout)["names"]["fast"] == stored["points"][-1]["point"], "not by the curve it has"


def test_two_passes_are_measured_stored_and_used(folder: Path, manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = invoke(folder, manifest, "--refine", "--store", "-o", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "out" / "sweep.json").read_text())
    firsts = {"squeeze=4,query_pool=2,kv_pool=2", "squeeze=2", "squeeze=3", "squeeze=4"}
    assert {one["point"] for one in facts["two_passes"]} == firsts
    assert {one["second"] for one in facts["two_passes"]} == {"squeeze=1"}
    for first in firsts:
        shares = [one["heard_again"] for one in facts["two_passes"] if one["point"] == first]
        assert shares == sorted(shares, reverse=True)
        assert 0 < shares[-1] <= shares[0] <= 1
    with (tmp_path / "out" / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 + len(facts["two_passes"])

    asr = sewkit.load(folder)
    chosen = facts["refined"]
    clip = read_manifest(manifest)[0]
    transcript = asr.transcribe(clip.parts[0].audio, refine=True)
    assert str(transcript.compute) == chosen["point"]
    by_hand = sewkit.Refinement(chosen["threshold"], chosen["second"])
    assert transcript.words == asr.transcribe(clip.parts[0].audio, compute=chosen["point"], refine=by_hand).words
    assert str(asr.transcribe(clip.parts[0].audio, compute="squeeze=3", refine=True).compute) == "squeeze=3"
    with pytest.raises(UserError, match="no calibrated threshold for two passes from squeeze=1: find it"):
        asr.transcribe(clip.parts[0].audio, compute="squeeze=1", refine=True)

    again = invoke(folder, manifest, "--refine", "--json")  # without --store at the thresholds of the stored curve
    known = [(one["point"], one["threshold"]) for one in json.loads(again.stdout)["two_passes"]]
    assert known == [(one["point"], one["threshold"]) for one in facts["two_passes"]]
    anew = two_passes(asr, read_manifest(manifest), "squeeze=3", asr.loaded.curve)
    assert {str(one.first) for one in anew} == {"squeeze=4,query_pool=2,kv_pool=2", "squeeze=4"}
    assert {str(one.facts()["second"]) for one in anew} == {"squeeze=3"}


def test_what_cannot_be_swept_is_one_clear_error(folder: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a manifest after the model"):
        invoke(folder)
    with pytest.raises(UserError, match="--store writes to the model's folder; sew-words is none"):
        invoke("sew-words", manifest, "--store")
    save_model(tmp_path / "fixed", toy_model("sew"), Alphabet.english())
    with pytest.raises(UserError, match="fixed has one operating point, squeeze=2: there is nothing to refine it with"):
        two_passes(sewkit.load(tmp_path / "fixed"), read_manifest(manifest))
    with pytest.raises(UserError, match="--second is the point of the second of two passes: give --refine beside"):
        invoke(folder, manifest, "--second", "squeeze=2")
    with pytest.raises(UserError, match="--time-only has no data"):
        invoke(folder, "--time-only", "--store")


def test_peak_memory_is_that_of_the_call_and_none_where_the_system_does_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def touch_pages() -> None:  # of the system, not of an allocator, which may keep them
        with mmap.mmap(-1, 64 << 20) as pages:
            pages.write(b"x" * len(pages))

    small = peak_mib(lambda: None, torch.device("cpu"))
    if small is not None:
        large = peak_mib(touch_pages, torch.device("cpu"))
        again = peak_mib(lambda: None, torch.device("cpu"))
        assert large is not None
        assert again is not None
        assert large > small + 60
        assert again < large - 30
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "nowhere")
    assert peak_mib(lambda: None, torch.device("cpu")) is None

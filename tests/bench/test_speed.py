"""`sewkit bench speed`, `stages` and `throughput`: in turn, against the fastest peer, in files of stated shape."""

import csv
import json
import mmap
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from sewkit.bench import floor, suite, systems
from sewkit.bench.exports import of_sewkit, transformers_model
from sewkit.bench.figures import write_report
from sewkit.bench.floor import Shapes, micros
from sewkit.bench.stages import measure_stages, num_calls
from sewkit.bench.subject import Unavailable, prepare
from sewkit.bench.systems import SYSTEMS, Case, System, choose
from sewkit.bench.throughput import PEER, Way, measure_throughput, watching
from sewkit.bench.timing import interleaved
from sewkit.checkpoint import save_model
from sewkit.cli.bench_tables import print_speed
from sewkit.cli.main import app
from sewkit.compute import Compute, macs
from sewkit.config import PUBLISHED, Stochastic
from sewkit.errors import UserError
from sewkit.recognizer import load
from sewkit.testing import STOCHASTIC_TOYS, TOYS, toy_model
from sewkit.text import Alphabet


@pytest.fixture(scope="module")
def stochastic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "stochastic"
    save_model(folder, toy_model("stochastic-sew"), Alphabet.english())
    return folder


def test_calls_run_in_turn_and_each_is_heard_of() -> None:
    order: list[str] = []
    heard: list[int] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = interleaved(calls, 2, on_call=lambda: heard.append(1))
    assert "".join(order) == "abc" * 3
    assert len(heard) == 9
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 2, "b": 2, "c": 2}


def fake(name: str, precision: str, problem: str | None = None) -> System:
    def build(case: Case) -> systems.Forward:
        if problem is not None:
            raise Unavailable(problem)
        return lambda: case.waveforms.sum()

    return System(name, precision, build)


FAKES = [
    fake("sewkit torch", "fp32"),
    fake("sewkit openvino", "int8"),
    fake("transformers sdpa", "fp32"),
    fake("openvino", "fp32"),
    fake("openvino", "int8"),
    fake("faster-whisper tiny", "int8", "no weights"),
]
SECONDS = {
    "sewkit torch fp32": 0.1,
    "sewkit openvino int8": 0.02,
    "transformers sdpa fp32": 0.2,
    "openvino fp32": 0.15,
    "openvino int8": 0.05,
}


@pytest.fixture
def report(stochastic: Path, monkeypatch: pytest.MonkeyPatch) -> suite.Report:
    """Two cases with times that are known."""

    def measured(calls, runs, pause, on_call):
        assert [call() is not None or name.startswith("rate") for name, call in calls.items()]
        return {name: [SECONDS.get(name, 0.001)] * runs for name in calls}

    monkeypatch.setattr(suite, "interleaved", measured)
    plan = suite.Plan([str(stochastic)], FAKES, seconds=[1.0], batch_sizes=[1, 2], runs=3, with_memory=False)
    return suite.measure(plan)


def test_each_case_has_a_row_for_each_system_and_what_cannot_run_is_said_once(report: suite.Report) -> None:
    assert len(report.rows) == 2 * 5
    assert [line.split(": ", 1)[1] for line in report.skipped] == ["faster-whisper tiny int8 skipped: no weights"]


def test_a_precision_that_the_processor_lacks_is_not_tried(stochastic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "multiplies", lambda dtype, device: False)
    plan = suite.Plan([str(stochastic)], [fake("sewkit torch", "bf16")], seconds=[1.0], runs=1, with_memory=False)
    report = suite.measure(plan)
    assert not report.rows
    assert report.skipped[0].endswith("sewkit torch bf16 skipped: this processor has no bfloat16")


def test_ratios_are_to_the_fastest_peer_at_the_same_precision(report: suite.Report) -> None:
    rows = {f"{row['system']} {row['precision']}": row for row in report.rows if row["batch_size"] == 1}
    ours, small = rows["sewkit torch fp32"], rows["sewkit openvino int8"]
    assert (ours["fastest_peer"], ours["times_fastest_peer"]) == ("openvino", pytest.approx(1.5))
    assert ours["times_transformers_fp32"] == pytest.approx(2.0)
    assert small["times_fastest_peer"] == pytest.approx(2.5)
    assert small["times_transformers_fp32"] == pytest.approx(10.0)


def test_rates_and_shares_follow_from_times_and_macs(report: suite.Report) -> None:
    row = next(row for row in report.rows if row["system"] == "sewkit torch" and row["batch_size"] == 2)
    cost = 2 * sum(macs(STOCHASTIC_TOYS["stochastic-sew"], 16_000, Compute()).values())
    assert row["macs"] == cost
    assert row["times_real_time"] == pytest.approx(2 / 0.1)
    assert row["real_time_factor"] == pytest.approx(0.1 / 2)
    assert row["gflops"] == pytest.approx(2 * cost / 0.1 / 1e9)
    assert row["share_of_matrix_rate"] == pytest.approx(row["gflops"] / row["matrix_rate_gflops"])


def test_files_hold_all_rows_and_the_hardware(report: suite.Report, tmp_path: Path, capsys) -> None:
    paths = write_report(tmp_path / "out", report)
    assert [path.name for path in paths] == ["speed.json", "speed.csv", "speed.png", "speed.svg"]
    whole = json.loads(paths[0].read_text())
    assert whole["rows"] == report.rows
    assert {"cpu", "cores", "threads", "torch", "versions", "date"} <= whole["environment"].keys()
    with paths[1].open() as file:
        lines = list(csv.DictReader(file))
    assert [line["system"] for line in lines] == [row["system"] for row in report.rows]
    print_speed(report)
    shown = capsys.readouterr().out
    assert "2 x 1 s" in shown
    assert "times as fast as the fastest peer" in shown


def test_systems_are_chosen_by_pattern_and_their_names_differ() -> None:
    labels = [system.label for system in SYSTEMS]
    assert len(set(labels)) == len(labels)
    assert [system.label for system in choose(["sewkit torch*"])] == ["sewkit torch fp32", "sewkit torch bf16"]
    assert all(system.is_peer for system in choose(["transformers*", "o*"]))
    with pytest.raises(UserError, match="no system matches 'nobody'; expected one of: sewkit torch fp32"):
        choose(["nobody"])


def test_a_subject_has_its_peers_weights_unless_transformers_has_no_such_model(
    stochastic: Path, tmp_path: Path
) -> None:
    plain = prepare(str(stochastic), "squeeze=3", tmp_path / "a")
    assert json.loads((plain.peer / "config.json").read_text())["squeeze_factor"] == 3
    pooled = prepare(str(stochastic), "squeeze=3,kv_pool=2", tmp_path / "b")
    with pytest.raises(Unavailable, match="no model that runs at squeeze=3,kv_pool=2"):
        _ = pooled.peer


def test_sewkit_and_transformers_compute_the_same_in_the_suite(stochastic: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    subject = prepare(str(stochastic), "squeeze=2", tmp_path)
    case = Case(subject, suite._waveforms(1.0, 2), "cpu", 1)
    ours, theirs = (choose([label])[0].build(case)() for label in ("sewkit torch fp32", "transformers sdpa fp32"))
    np.testing.assert_allclose(np.stack(ours), theirs, atol=1e-4)  # type: ignore[call-overload]


def test_an_attention_that_a_peer_lacks_is_a_line_not_the_end(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_model(tmp_path / "sew-d", toy_model("sew-d"), Alphabet.english())
    subject = prepare(str(tmp_path / "sew-d"), None, tmp_path / "subject")
    with pytest.raises(Unavailable, match="transformers has no sdpa attention for it"):
        transformers_model(subject, "sdpa")
    assert transformers_model(subject, "eager") is not None


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("name", ["w2v2", "sew", "sew-d"])
def test_floors_do_the_arithmetic_of_their_stage(name: str, int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """MACs of the micro-benchmarks are those that `compute.macs` counts; only SEW-D's table, made once, is left out."""
    config = TOYS[name]
    point = Compute(squeeze=config.squeeze_factor)
    monkeypatch.setattr(floor, "SCALED_FROM", 16)  # else a toy has no convolution that is wide enough
    pieces = micros(Shapes(config, 32_000, point, batch_size=2, int8=int8))
    assert any("int8" in piece.ways for piece in pieces if piece.stage == "features") == int8
    counted = macs(config, 32_000, point)
    by_stage = {stage: sum(piece.macs for piece in pieces if piece.stage == stage) for stage in counted}
    assert by_stage["features"] == 2 * counted["features"]
    assert by_stage["squeeze"] == 2 * counted["squeeze"]
    assert by_stage["head"] == 2 * counted["head"]
    encoder = sum(piece.macs for piece in pieces if piece.stage == "encoder")
    expected = 2 * (counted["encoder: attention"] + counted["encoder: feed-forward"])
    assert encoder == expected if name != "sew-d" else 0.8 * expected < encoder < expected
    for piece in pieces:
        for way in piece.ways.values():
            way()


def test_stages_add_up_and_have_their_floors(stochastic: Path) -> None:
    asr = load(stochastic, device="cpu", runtime="torch")
    calls: list[int] = []
    report = measure_stages(asr, 1.0, "squeeze=2", 2, lambda: calls.append(1))
    assert len(calls) == num_calls(asr, 1.0, "squeeze=2", 2)
    rows = {row["stage"]: row for row in report["stages"]}
    assert list(rows) == [
        "read", "features", "projection", "squeeze", "encoder", "up-sampling", "head", "rest", "decode"
    ]  # fmt: skip
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    for name, row in rows.items():
        pieces = [piece["ms"] for piece in report["micros"] if piece["stage"] == name]
        assert row["floor_ms"] == (pytest.approx(sum(pieces)) if pieces else None)
    asr.runtime = None  # type: ignore[assignment]
    with pytest.raises(UserError, match="told apart in the PyTorch runtime"):
        measure_stages(asr, 1.0, None, 1)


def test_stages_of_an_int8_export_are_told_apart_by_its_counters(stochastic: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    subject = prepare(str(stochastic), "squeeze=2", tmp_path / "subject")
    asr = load(of_sewkit(subject, "openvino", "int8"))
    report = measure_stages(asr, 1.0, "squeeze=2", 2)
    rows = {row["stage"]: row for row in report["stages"]}
    assert report["dtype"] == "int8"
    assert {"features", "squeeze", "encoder", "up-sampling", "head"} <= rows.keys()
    assert rows["features"]["floor_ms"] > 0
    assert rows["encoder"]["ms"] > rows["head"]["ms"] > 0
    with pytest.raises(UserError, match="told apart in the PyTorch runtime on a CPU, and in int8 for OpenVINO"):
        measure_stages(load(of_sewkit(subject, "openvino", "fp32")), 1.0, "squeeze=2", 1)


@pytest.mark.parametrize("in_memory", [False, True])
def test_throughput_compares_ways_on_recordings(stochastic: Path, tmp_path: Path, in_memory: bool) -> None:
    pytest.importorskip("transformers")
    paths = []
    for number, seconds in enumerate((0.5, 1.0, 0.3, 0.8)):
        paths.append(tmp_path / f"{number}.flac")
        soundfile.write(paths[-1], np.random.default_rng(number).uniform(-0.1, 0.1, int(16_000 * seconds)), 16_000)
    skipped: list[str] = []
    ways = [Way("torch", "fp32", 1), Way("torch", "fp32", 2, 1.0), Way("torch", "int8")]
    figures = measure_throughput(str(stochastic), paths, ways, 2, in_memory=in_memory, on_skip=skipped.append)
    rows = {row["way"]: row for row in figures["rows"]}
    peer = f"{PEER} fp32"
    assert list(rows) == ["sewkit torch fp32 workers=1", "sewkit torch fp32 workers=2 batch=1s", peer]
    assert [rows[name]["differ_from_one_by_one"] for name in rows] == [0, 0, None]
    assert rows[peer]["times_peer"] == 1
    assert figures["in_memory"] == in_memory
    assert figures["audio_seconds"] == pytest.approx(2.6)
    assert skipped == ["sewkit torch int8 skipped: the PyTorch runtime has no int8"]


def test_watching_tells_busy_from_idle_and_sees_memory_grow() -> None:
    with watching() as idle:
        time.sleep(0.5)
    with watching() as growing:
        held = mmap.mmap(-1, 30 * 2**20)  # pages of its own: an array may lie where a freed one lay
        held.write(bytes(len(held)))
        time.sleep(0.3)
    assert idle.busy < 0.5
    assert growing.quarters[-1] - idle.quarters[-1] > 20
    held.close()


def test_published_sizes_become_stochastic_only_where_a_point_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"sew-tiny": TOYS["sew"].replace(vocab_size=None)}
    monkeypatch.setattr("sewkit.bench.subject.PUBLISHED", {**PUBLISHED, **small})
    assert not load(prepare("sew-tiny", None, tmp_path / "a").model).config.is_stochastic
    made = load(prepare("sew-tiny", "squeeze=4", tmp_path / "b").model).config
    assert made.squeeze_factors == Stochastic().squeeze_factors


def test_the_commands_say_what_they_take(stochastic: Path) -> None:
    run = CliRunner().invoke
    assert "bench speed" in run(app, ["bench", "sew-tiny", "--help"]).output
    assert "bench transcribe" in run(app, ["bench", "sew-tiny", "--audio", "x", "--help"]).output
    refused = run(app, ["bench", "throughput", str(stochastic), "--audio", "x.wav", "--runtime", "torch"])
    assert "such as torch:fp32" in str(refused.exception)
    refused = run(app, ["bench", "throughput", str(stochastic), "--audio", "x.wav", "--peer-precision", "int8"])
    assert "expected fp32 or bf16" in str(refused.exception)
    refused = run(app, ["bench", "stages", str(stochastic), "--dtype", "int4"])
    assert "expected one of float32, bfloat16, float16, int8" in str(refused.exception)
    refused = run(app, ["bench", str(stochastic), "--system", "nobody"])
    assert isinstance(refused.exception, UserError)

"""`sewkit plan`: quantiles by order statistics, the cache, and what is answered."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import sewkit
from sewkit.bench import calibration
from sewkit.bench.calibration import CLIP_SECONDS, Calibration, cache_folder, calibrations, model_hash
from sewkit.bench.plan import Plan, estimates, plan
from sewkit.checkpoint import save_model
from sewkit.cli.main import app
from sewkit.compute import operating_points
from sewkit.curve import Curve, MeasuredPoint
from sewkit.errors import UserError
from sewkit.recognizer import Recognizer
from sewkit.testing import toy_model
from sewkit.text import Alphabet

POINTS = [str(point) for point in operating_points(toy_model("stochastic-sew").config)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", toy_model("stochastic-sew"), Alphabet.english())
    return tmp_path / "model"


@pytest.fixture
def asr(folder: Path) -> Recognizer:
    return sewkit.load(folder)


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The lengths of which all points were measured: number n takes n + 1 hundredths of a second for each second."""
    measured: list[float] = []

    def interleaved(calls: dict[str, partial[object]], runs: int) -> dict[str, list[float]]:
        clip_seconds = len(calls[POINTS[0]].args[0]) / 16_000
        if calls.keys() == set(POINTS):
            measured.append(clip_seconds)
        return {point: [0.01 * (1 + POINTS.index(point)) * clip_seconds] * runs for point in calls}

    monkeypatch.setattr(calibration, "interleaved", interleaved)
    return measured


def curve_of(rates: dict[str, float]) -> Curve:
    rest = dict.fromkeys(("cer", "cer_low", "cer_high", "seconds_median", "seconds_p95", "real_time_factor"), 0.5)
    points = [
        MeasuredPoint(
            point=point, wer=wer, wer_low=wer / 2, wer_high=2 * wer, macs_per_second=1, peak_memory_mib=None, **rest
        )
        for point, wer in rates.items()
    ]
    about: dict[str, Any] = {"num_clips": 1, "num_missing": 0, "audio_seconds": 1.0, "num_words": 1, "environment": {}}
    texts = dict.fromkeys(("model", "normalizer", "interval", "device", "dtype"), "x")
    return Curve(data={"toy": "00"}, points=tuple(points), **about, **texts)


def test_the_slowdown_is_an_order_statistic_of_all_runs_over_their_points_medians() -> None:
    times = {"a": [1.0, 1.0, 1.0, 1.2, 0.9], "b": [10.0, 10.0, 13.0, 10.0]}
    found = Calibration(1.0, times)
    # Nine ratios, ordered 0.9, 1 (six of them), 1.2, 1.3: of ten equal parts, 0.8 is the eighth.
    assert found.slowdown(0.75) == pytest.approx(1.2)
    assert found.slowdown(0.8) == pytest.approx(1.2)
    assert found.slowdown(0.9) == pytest.approx(1.3)
    with pytest.raises(UserError, match=r"quantile 0.95 cannot be told from 9 runs: give --runs 10 or more"):
        found.slowdown(0.95)
    assert Calibration(1.0, {"a": [1.0] * 10, "b": [1.0] * 10}).slowdown(0.95) == 1.0


def test_a_slow_moment_of_the_calibration_is_not_made_up_for_by_quick_ones() -> None:
    quick, slow = [1.0] * 20, [1.0] * 14 + [1.3] * 6
    assert Calibration(1.0, {"a": quick * 5}).slowdown(0.75) == 1.0
    assert Calibration(1.0, {"a": quick * 4 + slow}).slowdown(0.75) == pytest.approx(1.3)
    assert Calibration(1.0, {"a": quick[:18] + [1.3] * 5}).slowdown(0.75) == 1.0  # too few for two stretches


def test_the_quantile_holds_for_new_runs_of_the_same_device() -> None:
    random = np.random.default_rng(0)
    times = {name: (base * random.lognormal(0, 0.2, 200)).tolist() for name, base in (("a", 1.0), ("b", 3.0))}
    found = Calibration(1.0, times)
    kept = (3 * random.lognormal(0, 0.2, 4000) <= found.median("b") * found.slowdown(0.9)).mean()
    assert 0.88 < kept < 0.99  # of five stretches of eighty runs the slowest: 0.94 on average


def test_a_length_between_two_that_are_measured_is_interpolated(asr: Recognizer, measurements: list[float]) -> None:
    found = estimates(asr, calibrations(asr, 3.0, runs=4), 3.0, 0.9)
    assert measurements == [2.0, 5.0]
    assert [one.median for one in found] == pytest.approx([0.03 * (1 + n) for n in range(16)])
    calibrations(asr, 0.2, runs=4)
    calibrations(asr, 10.0, runs=4)
    assert measurements == [2.0, 5.0, 1.0, 10.0]
    assert estimates(asr, calibrations(asr, 0.2, runs=4), 0.2, 0.9)[0].median == pytest.approx(0.01)


def test_a_device_is_calibrated_once_for_a_model_and_again_for_more_runs_or_another_model(
    asr: Recognizer, measurements: list[float], tmp_path: Path
) -> None:
    first = calibrations(asr, 10.0, runs=4)
    assert calibrations(sewkit.load(tmp_path / "model"), 10.0, runs=4) == first
    assert len(measurements) == 1
    calibrations(asr, 10.0, runs=5)
    assert len(measurements) == 2
    save_model(tmp_path / "other", toy_model("stochastic-sew", seed=1), Alphabet.english())
    other = sewkit.load(tmp_path / "other")
    assert model_hash(other) != model_hash(asr)
    calibrations(other, 10.0, runs=4)
    assert len(measurements) == 3


def test_times_of_a_busy_moment_are_measured_anew(asr: Recognizer, measurements: list[float]) -> None:
    quiet = calibrations(asr, 10.0, runs=4)
    (path,) = cache_folder().iterdir()
    found = json.loads(path.read_text())
    for slowdown, again in ((1.2, 0), (1.5, 1)):
        times = {point: [slowdown * seconds for seconds in runs] for point, runs in found["times"].items()}
        path.write_text(json.dumps({**found, "times": times}))
        measurements.clear()
        assert (calibrations(asr, 10.0, runs=4) == quiet) == bool(again)
        assert len(measurements) == again


def test_a_quick_moment_in_a_busy_calibration_does_not_keep_it(asr: Recognizer, measurements: list[float]) -> None:
    quiet = calibrations(asr, 10.0, runs=4)
    (path,) = cache_folder().iterdir()
    found = json.loads(path.read_text())
    times = {point: [runs[0], *(9 * seconds for seconds in runs[1:])] for point, runs in found["times"].items()}
    path.write_text(json.dumps({**found, "times": times}))
    assert calibrations(asr, 10.0, runs=4) == quiet


def test_too_few_runs_are_refused_before_the_device_is_calibrated(asr: Recognizer, measurements: list[float]) -> None:
    with pytest.raises(UserError, match="give --runs 2 or more"):
        plan(asr, 1.0, 10.0, 0.95, runs=1)
    assert measurements == []


def test_a_damaged_or_unwritable_cache_is_measured_anew(
    asr: Recognizer, measurements: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibrations(asr, 10.0, runs=4)
    for content in ("", "[]", '{"times": {}}', '{"times": {"squeeze=1": "x"}}'):
        (path,) = cache_folder().iterdir()
        path.write_text(content)
        assert calibrations(asr, 10.0, runs=4)[0].times
    assert len(measurements) == 5
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert calibrations(asr, 10.0, runs=4)[0].times


def test_of_what_fits_the_fewest_errors_win_and_without_a_curve_the_most_macs(
    asr: Recognizer, measurements: list[float]
) -> None:
    assert str(plan(asr, 0.55, 10.0, runs=4).compute) == POINTS[4]  # the fifth takes half a second
    assert plan(asr, 0.55, 10.0, runs=4).measured is None
    rates = dict.fromkeys(POINTS, 0.3) | {POINTS[2]: 0.1, POINTS[9]: 0.01}
    asr.loaded = replace(asr.loaded, curve=curve_of(rates))
    found = plan(asr, 0.55, 10.0, runs=4)
    assert str(found.compute) == POINTS[2]
    assert found.to_dict()["expected"] == {"wer": 0.1, "wer_low": 0.05, "wer_high": 0.2}
    assert str(plan(asr, 0.25, 10.0, runs=4).compute) == POINTS[0]  # of equals the fastest
    assert isinstance(found, Plan)


@pytest.mark.parametrize(
    ("latency", "seconds", "quantile", "message"),
    [
        (
            0.01,
            10.0,
            0.9,
            rf"nothing fits 10 ms for 10 s of audio at quantile 0.9; the nearest is {POINTS[0]} with 100.0",
        ),
        (1.0, 31.0, 0.9, "--audio-seconds is 31; expected more than 0 and at most 30"),
        (1.0, 10.0, 1.0, "--quantile is 1; expected a probability between 0 and 1"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_error(
    asr: Recognizer, measurements: list[float], latency: float, seconds: float, quantile: float, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        plan(asr, latency, seconds, quantile, runs=4)
    assert "\n" not in str(raised.value)


def test_the_command_measures_this_device_and_answers(folder: Path) -> None:
    arguments = ["plan", "-m", str(folder), "--latency-ms", "60000", "--audio-seconds", "1", "--runs", "2"]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["point"] == POINTS[-1]
    assert 0 < facts["median_ms"] <= facts["quantile_ms"] < 60000
    said = CliRunner().invoke(app, arguments).stdout
    assert said.startswith(f"{POINTS[-1]}\n")
    assert "chosen by MACs" in said
    refused = CliRunner().invoke(app, [*arguments[:3], "--latency-ms", "0.001", *arguments[5:]])
    assert isinstance(refused.exception, UserError)
    assert CLIP_SECONDS[0] == 1.0


def test_a_budget_is_decided_once_and_taken_wherever_a_point_is(asr: Recognizer, measurements: list[float]) -> None:
    sound = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    budget = sewkit.Budget(latency_ms=550)
    assert asr.transcribe(sound, compute=budget).compute == asr.resolve(POINTS[4])
    assert np.array_equal(asr.logits([sound], budget)[0], asr.logits([sound], POINTS[4])[0])
    assert measurements == [10.0]
    with pytest.raises(UserError, match="nothing fits 40 ms for 5 s of audio"):
        asr.stream(compute=sewkit.Budget(40, audio_seconds=5.0, quantile=0.9))

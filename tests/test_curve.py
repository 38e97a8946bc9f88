"""Operating points by name: on a measured curve, without one, and what is stored with a model."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sewkit
from sewkit import compute as compute_module
from sewkit.checkpoint import convert, load_model, save_loaded, save_model
from sewkit.cli.main import app
from sewkit.compute import Compute, Refinement, macs, names_by_macs, operating_points, resolve
from sewkit.curve import FILE_NAME, Curve, MeasuredPasses, MeasuredPoint
from sewkit.errors import UserError
from sewkit.testing import toy_model
from sewkit.text import Alphabet

MODEL = toy_model("stochastic-sew")
POINTS = operating_points(MODEL.config)


def measured(point: Compute, seconds: float, wer: float, margin: float = 0.01) -> MeasuredPoint:
    rates = {"wer": wer, "wer_low": wer - margin, "wer_high": wer + margin}
    return MeasuredPoint(
        point=str(point),
        **rates,
        **{name.replace("wer", "cer"): value for name, value in rates.items()},
        seconds_median=seconds,
        seconds_p95=2 * seconds,
        real_time_factor=seconds / 3,
        macs_per_second=sum(macs(MODEL.config, 16_000, point).values()),
        peak_memory_mib=None,
    )


def toy_curve(points: list[MeasuredPoint] | None = None) -> Curve:
    """Point number n of the grid takes n + 1 seconds, and errors fall by 2 points a step."""
    points = points or [measured(point, 1 + n, 0.5 - 0.02 * n) for n, point in enumerate(POINTS)]
    about: dict[str, Any] = {"data": {"toy": "00"}, "num_clips": 3, "num_missing": 0, "audio_seconds": 9.0}
    about |= {"num_words": 9, "normalizer": "none", "interval": "95 % over utterances", "device": "cpu"}
    return Curve(model="toy", dtype="float32", environment={"date": "2026-01-01"}, points=tuple(points), **about)


def test_the_front_leaves_out_what_is_slower_and_no_better() -> None:
    curve = toy_curve(
        [
            measured(POINTS[n], seconds, wer)
            for n, seconds, wer in [
                (0, 3.0, 0.2),
                (1, 1.0, 0.4),
                (2, 2.0, 0.4),
                (3, 2.5, 0.3),
                (4, 4.0, 0.25),
                (5, 1.0, 0.5),
            ]
        ]
    )
    assert [point.point for point in curve.front] == [str(POINTS[n]) for n in (1, 3, 0)]


def test_balanced_is_the_fastest_that_makes_a_twentieth_more_errors_than_the_best_at_most() -> None:
    # However wide their intervals are.
    points = [measured(POINTS[0], 1, 0.4), measured(POINTS[1], 2, 0.211, margin=0.1), measured(POINTS[2], 3, 0.209)]
    names = toy_curve([*points, measured(POINTS[-1], 4, 0.2)]).names
    assert names == {"full": POINTS[-1], "balanced": POINTS[2], "fast": POINTS[0]}


def test_full_is_what_a_call_without_a_point_runs_even_where_another_was_slower() -> None:
    slowest_is_cheap = [measured(point, 99 - n, 0.5 - 0.02 * n) for n, point in enumerate(POINTS)]
    curve = toy_curve(slowest_is_cheap)
    assert curve.names["full"] == POINTS[-1] == resolve(MODEL.config, None)
    assert curve.names["fast"] == POINTS[-1]


def two_passes(first: Compute, seconds: float, wer: float, **changes: Any) -> MeasuredPasses:
    like = measured(first, seconds, wer).model_dump(exclude={"macs_per_second", "peak_memory_mib"})
    return MeasuredPasses(
        **{**like, "second": "squeeze=1", "threshold": 0.2, "margin": 0.96, "heard_again": 0.5, **changes}
    )


def test_refinement_is_the_fastest_of_two_passes_without_more_errors_than_the_second_point_alone() -> None:
    curve = toy_curve()  # squeeze=1 is the slowest with 16 seconds, and makes 20 % errors
    good, better = two_passes(POINTS[0], 5, 0.2), two_passes(POINTS[3], 9, 0.15)
    bad, worse = two_passes(POINTS[0], 3, 0.3), two_passes(POINTS[3], 2, 0.4)
    curve = curve.model_copy(update={"two_passes": (bad, better, good, worse)})
    assert curve.refined() == good
    assert curve.refined(POINTS[3]) == better
    assert curve.model_copy(update={"two_passes": (worse, bad)}).refined() == bad
    assert curve.refined(POINTS[1]) is None
    assert toy_curve().refined() is None
    assert good.refinement == Refinement(0.2, Compute(1), 0.96)


def test_two_passes_beat_the_points_where_every_point_is_slower_or_makes_more_errors() -> None:
    curve = toy_curve()  # point n takes n + 1 seconds and makes 50 - 2 n % errors
    assert curve.beats_points(two_passes(POINTS[0], 2.5, 0.47))
    assert not curve.beats_points(two_passes(POINTS[0], 2.5, 0.48))
    assert not curve.beats_points(two_passes(POINTS[0], 99, 0.2))


def test_a_stored_curve_keeps_its_two_passes_and_refuses_those_of_another_model(tmp_path: Path) -> None:
    save_model(tmp_path, MODEL, Alphabet.english())
    kept = toy_curve().model_copy(update={"two_passes": (two_passes(POINTS[0], 5, 0.2),)})
    kept.write(tmp_path)
    assert load_model(tmp_path).curve == kept
    foreign = two_passes(POINTS[0], 5, 0.2, second="squeeze=9")
    toy_curve().model_copy(update={"two_passes": (foreign,)}).write(tmp_path)
    with pytest.raises(UserError, match="two passes at squeeze=9, which is not a point of this model; measure again"):
        load_model(tmp_path)


def test_names_go_by_the_stored_curve_and_without_one_by_macs(caplog: pytest.LogCaptureFixture) -> None:
    compute_module._say_by_macs.cache_clear()
    config = MODEL.config
    by_macs = names_by_macs(config)
    assert (by_macs["full"], by_macs["fast"]) == (POINTS[-1], POINTS[0])
    assert by_macs["balanced"] not in (POINTS[-1], POINTS[0])
    with caplog.at_level(logging.WARNING):
        assert {resolve(config, "balanced"), resolve(config, " balanced")} == {by_macs["balanced"]}
    assert len(caplog.messages) == 1
    assert "chosen by MACs" in caplog.text
    caplog.clear()
    names = {"full": POINTS[-1], "balanced": POINTS[3], "fast": POINTS[2]}
    assert [resolve(config, name, names) for name in names] == list(names.values())
    assert not caplog.messages


def test_every_name_of_a_fixed_model_is_its_only_point(caplog: pytest.LogCaptureFixture) -> None:
    config = toy_model("sew").config
    assert {resolve(config, name) for name in ("full", "balanced", "fast")} == {Compute(2)}
    assert not caplog.messages


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("fastest", "'fastest': expected full, balanced, fast, or numbers such as .*squeeze 1, 2, 3, 4"),
        ("squeeze=8", "does not run at squeeze=8; it runs at: squeeze 1, 2, 3, 4; query_pool 1, 2; kv_pool 1, 2"),
    ],
)
def test_a_point_that_the_model_lacks_is_one_line_that_lists_what_it_has(request_: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        resolve(MODEL.config, request_)
    assert "\n" not in str(raised.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", MODEL, Alphabet.english())
    shuffled = [measured(point, 1 + (7 * n) % 16, 0.5) for n, point in enumerate(POINTS)]
    toy_curve(shuffled).write(tmp_path / "model")
    return tmp_path / "model"


def test_a_stored_curve_orders_the_options_and_survives_save_and_convert(folder: Path, tmp_path: Path) -> None:
    asr = sewkit.load(folder)
    curve = asr.loaded.curve
    assert curve is not None
    assert asr.compute_options == tuple(point.compute for point in curve.points) != POINTS
    assert asr.resolve("fast") == asr.compute_options[0]
    asr.save(tmp_path / "saved")
    convert(folder, tmp_path / "converted")
    for copy in ("saved", "converted"):
        assert load_model(tmp_path / copy).curve == curve


def test_another_model_in_the_same_folder_does_not_keep_the_curve(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "fixed", compute="fast")
    assert load_model(tmp_path / "fixed").curve is None
    assert load_model(tmp_path / "fixed").model.config.squeeze_factor == load_model(folder).resolve("fast").squeeze
    save_loaded(folder, replace(load_model(folder), curve=None))
    assert not (folder / FILE_NAME).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format version 2, this sewkit reads up to 1; upgrade"),
        ({"points": []}, "points: .*measure again with sewkit sweep --store"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"points": [measured(POINTS[0], 1, 0.5).model_dump()]}, "1 operating points that are not this model's 16"),
    ],
)
def test_a_curve_that_is_none_of_the_models_is_one_clear_error(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    path = folder / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message) as raised:
        load_model(folder)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_info_names_the_points_and_shows_what_was_measured(folder: Path) -> None:
    said = CliRunner().invoke(app, ["info", str(folder)], env={"COLUMNS": "120"}).stdout
    assert "WER on toy" in said
    assert "50.0%" in said
    facts = json.loads(CliRunner().invoke(app, ["info", str(folder), "--json"]).stdout)
    assert facts["names"] == {name: str(load_model(folder).resolve(name)) for name in ("full", "balanced", "fast")}
    assert len(facts["measured_curve"]["points"]) == len(POINTS)

"""The grid of operating points: every point timed, cheapest first."""

import json

import pytest
from typer.testing import CliRunner

from sewkit.bench import grid
from sewkit.bench.grid import EXTRACTOR, time_grid
from sewkit.checkpoint import save_model
from sewkit.cli.main import app
from sewkit.compute import operating_points
from sewkit.errors import UserError
from sewkit.testing import toy_model
from sewkit.text import Alphabet


def test_ratios_and_shares_are_of_the_measured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("stochastic-sew")
    points = [str(point) for point in operating_points(model.config)]

    def measured(calls, runs):
        for call in calls.values():
            call()
        assert list(calls) == [EXTRACTOR, *points]
        return {name: [0.1 * (index + 1)] * runs for index, name in enumerate(calls)}

    monkeypatch.setattr(grid, "interleaved", measured)
    rows = time_grid(model, seconds=0.5, runs=3)
    assert [row["point"] for row in rows] == points
    assert rows[0]["seconds"]["median"] == pytest.approx(0.2)
    assert rows[0]["times_as_fast"] == pytest.approx(1.7 / 0.2)
    assert rows[0]["extractor_share"] == pytest.approx(0.1 / 0.2)
    assert rows[-1]["times_as_fast"] == 1


def test_the_command_writes_a_row_for_each_point(tmp_path) -> None:
    save_model(tmp_path / "m", toy_model("stochastic-sew-d"), Alphabet.english())
    arguments = ["sweep", str(tmp_path / "m"), "--time-only", "--seconds", "0.5", "--runs", "1", "-o"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert len(figures["models"][str(tmp_path / "m")]) == 16
    refused = CliRunner().invoke(app, ["sweep", str(tmp_path / "m")])
    assert isinstance(refused.exception, UserError)

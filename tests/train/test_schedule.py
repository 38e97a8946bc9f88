"""Learning rates and the Gumbel temperature against fairseq's, update by update."""

import json
from pathlib import Path

import pytest

from sewkit.objectives.quantizer import temperature_at
from sewkit.train.schedule import Schedule, polynomial, tri_stage

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "data" / "schedules.json").read_text())
RATES = GOLDEN["learning_rate"]


@pytest.mark.parametrize(("update", "expected"), RATES["polynomial_decay lr 5e-4 warmup 32000 total 400000"])
def test_polynomial_equals_fairseq(update, expected):
    assert polynomial(update, 400_000, 5e-4, 32_000) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("num_updates", [13_000, 20_000])
def test_tri_stage_equals_fairseq(num_updates):
    for update, expected in RATES[f"tri_stage lr 5e-05 max_update {num_updates} phases .1/.4/.5"]:
        assert tri_stage(update, num_updates, 5e-5) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("update", "expected"), GOLDEN["gumbel_temperature"]["values"])
def test_the_gumbel_temperature_equals_fairseq(update, expected):
    assert temperature_at(update, tuple(GOLDEN["gumbel_temperature"]["config"])) == pytest.approx(expected, rel=1e-9)


def test_a_schedule_reads_its_kind():
    tri = Schedule(learning_rate=5e-5)
    assert tri.at(5_000, 20_000) == 5e-5
    assert Schedule(kind="polynomial", learning_rate=5e-4, warmup=0.08).at(16_000, 400_000) == pytest.approx(2.5e-4)
    assert Schedule(kind="constant", learning_rate=1e-3).at(7, 10) == 1e-3

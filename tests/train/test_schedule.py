"""Learning rates against fairseq's, update by update."""

import pytest

from sewkit.train.schedule import Schedule, polynomial, tri_stage

# [update, learning rate after step_update(update)] of fairseq at commit 05255f9
POLYNOMIAL = [
    (0, 0.0),
    (1, 1.5625e-08),
    (16000, 0.00025),
    (31999, 0.000499984375),
    (32000, 0.0005),
    (32001, 0.0004999986413043478),
    (200000, 0.0002717391304347826),
    (399999, 1.3586956521538519e-09),
    (400000, 0.0),
    (400001, 0.0),
]
TRI_STAGE = [
    (0, 5.000000000000001e-07),
    (1, 5.2475e-07),
    (1999, 4.9975250000000006e-05),
    (2000, 5e-05),
    (9999, 5e-05),
    (10000, 5e-05),
    (10001, 4.998502358201117e-05),
    (12000, 2.7464013582652947e-05),
    (18000, 4.551410507565201e-06),
    (19999, 2.50074904525974e-06),
]


@pytest.mark.parametrize(("update", "expected"), POLYNOMIAL)
def test_polynomial_equals_fairseq(update, expected):
    assert polynomial(update, 400_000, 5e-4, 32_000) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("update", "expected"), TRI_STAGE)
def test_tri_stage_equals_fairseq(update, expected):
    assert tri_stage(update, 20_000, 5e-5) == pytest.approx(expected, rel=1e-9)


def test_a_schedule_reads_its_kind():
    tri = Schedule(learning_rate=5e-5)
    assert tri.at(5_000, 20_000) == 5e-5
    assert Schedule(kind="polynomial", learning_rate=5e-4, warmup=0.08).at(16_000, 400_000) == pytest.approx(2.5e-4)
    assert Schedule(kind="constant", learning_rate=1e-3).at(7, 10) == 1e-3

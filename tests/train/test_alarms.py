"""Each sign of trouble is told once while it lasts, with its value and what to do; a healthy run is silent."""

import pytest

from sewkit.train.alarms import RULES, Alarms

HEALTHY = {
    "learning_rate": 5e-4,
    "loss": 3.2,
    "grad_norm": 1.1,
    "contrastive": 3.0,
    "code_perplexity": 210.0,
    "positive_similarity": 0.55,
    "negative_similarity": 0.1,
    "infeasible": 0.0,
    "waiting_for_data": 0.01,
    "skipped": 0.0,
}
SIGNS = [
    ({"skipped": 3.0}, "3 updates were left out"),
    ({"grad_norm": 1e-5}, "gradient norm 1e-05 "),
    ({"grad_norm": 60.0}, "gradient norm 60, usually 1.1 "),
    ({"code_perplexity": 7.0}, "code perplexity 7 of 640 code words"),
    ({"positive_similarity": 0.51, "negative_similarity": 0.5}, "cannot be told from negatives"),
    ({"positive_similarity": 0.99, "negative_similarity": 0.95}, "all frames have become alike"),
    ({"contrastive": 0.0013}, "contrastive loss 0.0013 "),
    ({"infeasible": 0.02}, "2.00% of the rows"),
]


def watching(lines=6):
    """Alarms of a run that has gone well so far."""
    alarms = Alarms(num_entries=640)
    for _ in range(lines):
        assert alarms.check(HEALTHY) == []
    return alarms


@pytest.mark.parametrize(("change", "message"), SIGNS)
def test_each_sign_is_told_once_while_it_lasts(change, message):
    alarms = watching()
    sick = {**HEALTHY, **change}
    (told,) = alarms.check(sick)
    assert message in told
    assert "healthy" in told or "alarm above" in told
    assert alarms.check(sick) == []
    assert alarms.check({"wer_dev": 0.4}) == []  # a line of measurements says nothing about it
    assert alarms.check(sick) == []
    assert alarms.check(HEALTHY) == []
    assert len(alarms.check(sick)) == 1


def test_what_looks_like_collapse_during_warm_up_is_the_beginning():
    alarms = Alarms(num_entries=640)
    start = {**HEALTHY, "code_perplexity": 5.0, "positive_similarity": 0.95, "negative_similarity": 0.95}
    for update in range(10):
        assert alarms.check({**start, "learning_rate": 1e-5 * update}) == []
    told = [alarms.check({**start, "learning_rate": 9e-5}) for _ in range(11)]
    assert [len(messages) for messages in told] == [2, *[0] * 9, 1]
    assert "targets cannot be told from negatives" in told[-1][0]


def test_waiting_for_data_counts_when_it_is_usual():
    alarms = watching()
    told = [alarms.check({**HEALTHY, "waiting_for_data": 0.4}) for _ in range(5)]
    assert [len(messages) for messages in told] == [0, 0, 1, 0, 0]
    assert "40% of the time" in told[2][0]


def test_a_head_that_writes_only_blanks_is_named_after_five_measurements():
    alarms = Alarms()
    told = [alarms.check({"wer_clean": 1.0, "wer_other": 1.0}) for _ in range(6)]
    assert [len(messages) for messages in told] == [0, 0, 0, 0, 1, 0]
    assert alarms.check({"wer_clean": 0.9, "wer_other": 1.0}) == []


def test_every_rule_can_be_raised():
    raised = {name for change, _ in SIGNS for name in raise_with(change)} | {"only blanks", "waiting"}
    assert raised == {rule.name for rule in RULES}


def raise_with(change):
    alarms = watching()
    alarms.check({**HEALTHY, **change})
    return alarms.raised

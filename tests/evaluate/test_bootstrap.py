"""What is resampled, and that intervals hold what they promise where utterances of a speaker are alike."""

import numpy as np
import pytest

from sewkit.errors import UserError
from sewkit.evaluate import bootstrap
from sewkit.evaluate.bootstrap import Clusters, interval, resampled_rates


@pytest.mark.parametrize(
    ("speakers", "resampled", "reason"),
    [
        ([f"s{number % 10}" for number in range(30)], "speakers", "10 speakers were resampled"),
        ([f"s{number % 9}" for number in range(30)], "utterances", "too few speakers to resample: 9"),
        ([f"s{number}" for number in range(30)], "utterances", "each names a speaker of its own"),
        (["", *(f"s{number % 10}" for number in range(30))], "utterances", "not every speaker is known"),
    ],
)
def test_speakers_are_resampled_where_there_are_enough(speakers: list[str], resampled: str, reason: str) -> None:
    clusters = Clusters.choose(speakers)
    assert clusters.resampled == resampled
    assert reason in clusters.reason
    expected = len(set(speakers)) if resampled == "speakers" else len(speakers)
    assert len(set(clusters.ids.tolist())) == expected
    assert len(clusters.ids) == len(speakers)


def test_the_choice_can_be_overruled() -> None:
    assert Clusters.choose(["a", "a", "b"], "speakers").ids.tolist() == [0, 0, 1]
    assert Clusters.choose([f"s{number % 10}" for number in range(30)], "utterances").resampled == "utterances"
    with pytest.raises(UserError, match="needs several, known for every utterance; found utterances without a speaker"):
        Clusters.choose(["a", ""], "speakers")
    with pytest.raises(UserError, match="needs several, known for every utterance; found 1"):
        Clusters.choose(["a", "a"], "speakers")


def test_a_resample_keeps_a_speakers_utterances_together() -> None:
    errors, units, ids = np.array([1.0, 1.0, 0.0, 0.0]), np.ones(4), np.array([0, 0, 1, 1])
    rates = resampled_rates(errors, units, ids, 500)
    assert set(rates.tolist()) == {0.0, 0.5, 1.0}
    assert rates.mean() == pytest.approx(0.5, abs=0.1)  # standard error 0.016


def test_the_seed_decides_and_memory_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    errors, units = generator.integers(3, size=50).astype(float), np.full(50, 5.0)
    whole = resampled_rates(errors, units, np.arange(50), 200, seed=3)
    assert not np.array_equal(whole, resampled_rates(errors, units, np.arange(50), 200, seed=4))
    monkeypatch.setattr(bootstrap, "MAX_DRAWN", 170)
    assert np.array_equal(whole, resampled_rates(errors, units, np.arange(50), 200, seed=3))


def test_only_intervals_over_speakers_cover_the_truth_where_speakers_differ() -> None:
    generator = np.random.default_rng(0)
    covered = {"speakers": 0, "utterances": 0}
    for _ in range(100):
        habits = generator.beta(2, 6, size=30)  # mean 0.25
        speakers = [f"s{number}" for number in range(30) for _ in range(20)]
        errors = (generator.random((30, 20)) < habits[:, None]).astype(float).ravel()
        for resampled in covered:
            clusters = Clusters.choose(speakers, resampled)  # type: ignore[arg-type]
            low, high = interval(resampled_rates(errors, np.ones(600), clusters.ids, 200))
            covered[resampled] += low <= 0.25 <= high
    assert covered["speakers"] >= 85  # 95 expected, binomial spread about 2, percentile intervals a little narrow
    assert covered["utterances"] <= 80

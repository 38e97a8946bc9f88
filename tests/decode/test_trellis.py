"""The windowed Viterbi of alignment: exact against plain references, and in bounded memory."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sewkit.decode.trellis import LostPathError, best_path

BLANK = 0


def random_case(seed: int, num_labels: int, spare: int, vocab: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """(T, vocab) log probabilities and labels, of which many repeat, with `spare` frames over the fewest."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, vocab, size=num_labels).astype(np.int32)
    frames = num_labels + int((labels[1:] == labels[:-1]).sum()) + spare
    return log_softmax(3 * generator.standard_normal((frames, vocab))), labels


def spoken_case(seed: int, num_labels: int, frames: int, vocab: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `random_case`, but of sound that holds the labels: also gives their frames, which are no neighbours."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, vocab, size=num_labels).astype(np.int32)
    places = 2 * np.sort(generator.choice(frames // 2, num_labels, replace=False))
    scores = generator.standard_normal((frames, vocab)).astype(np.float32)
    scores[:, BLANK] += 10
    scores[places, BLANK] -= 10
    scores[places, labels] += 10
    return log_softmax(scores), labels, places


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return (scores - np.log(np.exp(scores).sum(1, keepdims=True))).astype(np.float32)


def plain_viterbi(log_probs: np.ndarray, labels: np.ndarray) -> float:
    """The best path's score by the textbook's loops over all 2 N + 1 states (Graves et al. 2006, with max for sum)."""
    states = [BLANK]
    for label in labels.tolist():
        states += [label, BLANK]
    scores = [log_probs[0, states[0]], log_probs[0, states[1]]] + [-np.inf] * (len(states) - 2)
    for frame in log_probs[1:]:
        before = scores
        scores = []
        for state, label in enumerate(states):
            sources = [before[state]]
            if state >= 1:
                sources.append(before[state - 1])
            if state >= 2 and label not in (BLANK, states[state - 2]):
                sources.append(before[state - 2])
            scores.append(max(sources) + frame[label])
    return float(max(scores[-2:]))


def score_of(path: np.ndarray, log_probs: np.ndarray, labels: np.ndarray) -> float:
    """Sum over the frames of a path, which must spell the labels."""
    found = np.where(path < 0, BLANK, labels[path])
    spelled = [label for label, _ in itertools.groupby(found.tolist()) if label != BLANK]
    assert spelled == labels.tolist()
    assert [place for place, _ in itertools.groupby(path.tolist()) if place >= 0] == list(range(len(labels)))
    return float(log_probs[np.arange(len(path)), found].sum(dtype=np.float64))


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(0, 40), st.sampled_from([4, 16, 2048]))
@settings(max_examples=60, deadline=None)
def test_no_path_is_better_whatever_the_window(seed: int, num_labels: int, spare: int, window: int) -> None:
    """Within 1e-3 of the sum over frames, which are rounded to float32 in another order."""
    log_probs, labels = random_case(seed, num_labels, spare)
    path = best_path(log_probs, labels, window=window)
    assert score_of(path, log_probs, labels) == pytest.approx(plain_viterbi(log_probs, labels), abs=1e-3)


def test_no_path_of_torchaudio_is_better() -> None:
    functional = pytest.importorskip(
        "torchaudio.functional", reason="torchaudio is no dependency", exc_type=ImportError
    )
    import torch

    for seed in range(20):
        log_probs, labels = random_case(seed, 25, 30)
        _, scores = functional.forced_align(
            torch.from_numpy(log_probs)[None], torch.from_numpy(labels)[None], blank=BLANK
        )
        path = best_path(log_probs, labels, window=16)
        assert score_of(path, log_probs, labels) == pytest.approx(float(scores.sum()), abs=1e-3)


def test_a_window_gives_the_path_that_the_whole_trellis_gives() -> None:
    log_probs, labels, places = spoken_case(0, num_labels=600, frames=3000)
    narrow = best_path(log_probs, labels, window=128, widest=128)
    np.testing.assert_array_equal(narrow, best_path(log_probs, labels, window=1024))
    np.testing.assert_array_equal(np.flatnonzero(narrow >= 0), places)


def shuffled_case(seed: int, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Sound that holds pieces of the text, clear and faint ones, in any order: what looks best lies far to and fro."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, 4, size=num_labels).astype(np.int32)
    said: list[tuple[int, int]] = []  # label, clearness
    for _ in range(num_labels // 3):
        start = generator.integers(num_labels - 8)
        for label in labels[start : start + generator.integers(2, 8)]:
            said.append((label, generator.choice([2, 6])))
            said += [(BLANK, generator.choice([1, 3]))] * generator.integers(1, 3)
        said += [(BLANK, 2)] * generator.integers(6)
    scores = 0.1 * generator.standard_normal((len(said), 4))
    for row, (label, clearness) in zip(scores, said, strict=True):
        row[label] += clearness
    return log_softmax(scores), labels


@pytest.mark.parametrize("seed", range(10))
def test_a_path_is_the_best_also_where_the_best_so_far_leads_astray(seed: int) -> None:
    log_probs, labels = shuffled_case(seed, num_labels=120)
    narrow, whole = (best_path(log_probs, labels, window=window) for window in (16, 2048))
    assert score_of(narrow, log_probs, labels) == pytest.approx(score_of(whole, log_probs, labels), abs=1e-3)


@pytest.mark.parametrize("part", ["sound", "text"])
def test_what_only_one_of_text_and_sound_holds_is_passed_by(part: str) -> None:
    """100 labels that the other lacks, more than half the window: it is widened until the path is sure to be best."""
    log_probs, labels, places = spoken_case(1, num_labels=600, frames=3000)
    if part == "text":
        log_probs = np.delete(log_probs, np.s_[places[300] : places[400]], axis=0)
    else:
        labels = np.delete(labels, np.s_[300:400])
    path = best_path(log_probs, labels, window=64)
    np.testing.assert_array_equal(path, best_path(log_probs, labels, window=1024))
    assert score_of(path, log_probs, labels) == pytest.approx(plain_viterbi(log_probs, labels), abs=1e-2)


def test_a_path_that_leaves_the_widest_window_is_an_error_not_a_guess() -> None:
    log_probs, labels, _ = spoken_case(2, num_labels=600, frames=3000)
    with pytest.raises(LostPathError) as caught:
        best_path(log_probs, np.delete(labels, np.s_[200:500]), window=32, widest=32)
    assert 0 <= caught.value.frame <= 3000


def test_an_hour_is_aligned_in_bounded_memory() -> None:
    """180,000 frames and 40,000 labels in less than 100 MB beside the input; back-pointers of all would be 3.6 GB."""
    log_probs, labels, places = spoken_case(3, num_labels=40_000, frames=180_000, vocab=28)
    tracemalloc.start()
    path = best_path(log_probs, labels, window=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    np.testing.assert_array_equal(np.flatnonzero(path >= 0), places)

"""Prefix beam search: equal to summing over all alignments, equal in pieces, and pruned without harm."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sewkit.decode import FrameTiming, best_labels, decode_words
from sewkit.decode.beam import BeamSearch, Pruning
from sewkit.decode.fusion import FusionWeights
from sewkit.decode.lm import NGramModel, build_arpa
from sewkit.errors import UserError
from sewkit.text import Alphabet

ALPHABET = Alphabet(("<pad>", "<s>", "|", "A", "B"), blank=0, special=frozenset([1]))
TIMING = FrameTiming(hop_samples=320, receptive_field=400, sample_rate=16_000)
LM = NGramModel(build_arpa(["A AB", "AB A B", "B B A", "A A B", "BA"], order=3))
WEIGHTS = FusionWeights(alpha=0.7, beta=0.9, unk_score_offset=-2.0)
EXACT = Pruning.off(100_000)


def random_logits(seed: int, num_frames: int, num_tokens: int = 5, sharpness: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((num_frames, num_tokens)) * sharpness).astype(np.float32)


def acoustic_scores(logits: np.ndarray, alphabet: Alphabet) -> dict[str, float]:
    """Natural-log probability of every text, from all alignments one by one."""
    log_probs = logits.astype(np.float64)
    log_probs -= np.log(np.exp(log_probs).sum(1, keepdims=True))
    scores: dict[str, float] = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(len(alphabet)), repeat=len(logits)):
        text = alphabet.collapse(path)
        scores[text] = float(
            np.logaddexp(scores[text], sum(log_probs[frame, token] for frame, token in enumerate(path)))
        )
    return scores


def lm_score(text: str, weights: FusionWeights = WEIGHTS) -> float:
    words = text.split()
    log10 = sum(LM.word_scores(words)) + weights.unk_score_offset * sum(word not in LM.words() for word in words)
    return weights.alpha * math.log(10) * log10 + weights.beta * len(words)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), num_frames=st.integers(0, 5))
def test_without_a_language_model_every_text_has_the_sum_of_its_alignments(seed: int, num_frames: int) -> None:
    logits = random_logits(seed, num_frames)
    expected = acoustic_scores(logits, ALPHABET)
    found = BeamSearch(ALPHABET, pruning=EXACT).decode(logits, n=10_000)
    assert {one.text for one in found} == set(expected)
    for one in found:
        assert one.acoustic == pytest.approx(expected[one.text], abs=1e-9)
        assert one.lm == one.hotwords == 0.0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), num_frames=st.integers(0, 5))
def test_with_language_model_and_hotwords_the_ranking_is_that_of_exhaustive_search(seed: int, num_frames: int) -> None:
    logits = random_logits(seed, num_frames)
    search = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS, hotwords={"BA": 1.5, "A B": 2.0}, pruning=EXACT)
    expected = {}
    for text, acoustic in acoustic_scores(logits, ALPHABET).items():
        words = text.split()
        hot = 1.5 * words.count("BA") + 2.0 * sum(pair == ("A", "B") for pair in itertools.pairwise(words))
        expected[text] = (acoustic, lm_score(text), hot)
    found = search.decode(logits, n=10_000)
    ranking = sorted((sum(scores) for scores in expected.values()), reverse=True)
    assert [one.score for one in found] == pytest.approx(ranking, abs=1e-5)
    for one in found:
        assert (one.acoustic, one.lm, one.hotwords) == pytest.approx(expected[one.text], abs=1e-5)
    assert len(found) == len(expected)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_pieces_equal_the_whole(seed: int, cuts: list[int]) -> None:
    logits = random_logits(seed, 60)
    search = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS, hotwords={"AB": 1.0})
    (whole,) = search.decode(logits)
    state = search.start()
    for piece in np.split(logits, sorted(cuts)):
        state.feed(piece)
    (pieces,) = state.finish()
    assert (pieces.text, pieces.score) == (whole.text, whole.score)
    np.testing.assert_array_equal(pieces.labels.ids, whole.labels.ids)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_beam_of_one_is_the_best_path_where_every_frame_is_sure(seed: int) -> None:
    """From a best probability of 0.8 on no sum of other alignments can overtake it, whatever went before."""
    best = np.random.default_rng(seed).integers(0, 5, size=40)
    logits = random_logits(seed, 40, sharpness=0.1)
    logits[np.arange(40), best] += 4.0
    (found,) = BeamSearch(ALPHABET, pruning=Pruning.off(1)).decode(logits)
    assert found.text == ALPHABET.collapse(best.tolist())

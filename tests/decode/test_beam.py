"""Prefix beam search: equal to summing over all alignments, equal in pieces, and pruned without harm."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sewkit.decode import FrameTiming, best_labels, decode_words
from sewkit.decode.beam import BeamSearch, BeamState, Pruning
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


# ---- pruning and memory


def spelled_logits(text: str, alphabet: Alphabet, seed: int = 0, confidence: float = 6.0) -> np.ndarray:
    """Two frames a letter and two of silence after it, with noise."""
    ids = [index for letter in alphabet.encode(text) for index in (letter, letter, alphabet.blank, alphabet.blank)]
    logits = np.random.default_rng(seed).standard_normal((len(ids), len(alphabet)))
    logits[np.arange(len(ids)), ids] += confidence
    return logits.astype(np.float32)


@pytest.mark.parametrize("seed", range(10))
def test_default_pruning_finds_a_best_text_of_the_exact_search(seed: int) -> None:
    logits = spelled_logits("AB A BA B AAB", ALPHABET, seed, confidence=5.0)
    exact = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS, pruning=Pruning.off(300)).decode(logits, n=10)
    (pruned,) = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS).decode(logits)
    # The noise makes near ties, and alignments that are left out weigh some tenths.
    assert pruned.text in [one.text for one in exact if one.score > exact[0].score - 0.5]
    assert exact[0].score - 3 < pruned.score < exact[0].score + 0.01


def num_prefixes(state: BeamState) -> int:
    """All that are in memory, those that the search has left included."""
    *_, root = state._beams[0].lineage()
    waiting, number = [root], 0
    while waiting:
        number += 1
        waiting += waiting.pop().children.values()
    return number


def test_settling_words_bounds_memory_and_changes_no_word_or_time(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(["AB", "A", "BA", "B"] * 40)
    logits = spelled_logits(text, ALPHABET)
    search = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS)
    monkeypatch.setattr("sewkit.decode.beam.COMMIT_FRAMES", 10**9)
    at_once = search.decode(logits)[0]
    monkeypatch.setattr("sewkit.decode.beam.COMMIT_FRAMES", 100)
    monkeypatch.setattr("sewkit.decode.beam.LONGEST_WINDOW", 300)
    state = search.start()
    for piece in np.array_split(logits, 37):
        state.feed(piece)
        assert num_prefixes(state) < 3000
        assert sum(map(len, state._window)) < 400
    (settled,) = state.finish()
    assert settled.text == at_once.text == text
    assert settled.score == pytest.approx(at_once.score, abs=0.5)  # fewer beams, other alignments left out
    words, others = (decode_words(one.labels, ALPHABET, TIMING) for one in (settled, at_once))
    assert words == others


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_no_two_beams_are_one_prefix(seed: int) -> None:
    state = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS, pruning=Pruning.off(30)).start()
    for frame in random_logits(seed, 12):
        state.feed(frame[None])
        spelled = [tuple(beam.columns()) for beam in state._beams]
        assert len(set(spelled)) == len(spelled)


def test_a_long_silence_is_let_go_of() -> None:
    logits = np.full((3000, 5), -8.0, np.float32)
    logits[:, 0] = 8.0
    state = BeamSearch(ALPHABET).start()
    state.feed(logits)
    assert sum(map(len, state._window)) == 0
    assert len(state.labels().ids) == 3000
    assert state.partial() == ""


# ---- what comes out


def test_words_times_and_confidences_are_greedys_where_the_model_is_sure() -> None:
    logits = spelled_logits("AB A BA", ALPHABET, confidence=8.0)
    greedy = decode_words(best_labels(logits), ALPHABET, TIMING)
    (found,) = BeamSearch(ALPHABET).decode(logits)
    words = decode_words(found.labels, ALPHABET, TIMING)
    assert [(word.text, word.start, word.end) for word in words] == [
        (word.text, word.start, word.end) for word in greedy
    ]
    assert [word.confidence for word in words] == pytest.approx([word.confidence for word in greedy], abs=1e-3)
    assert " ".join(word.text for word in words) == found.text


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_words_of_every_hypothesis_spell_its_text(seed: int) -> None:
    state = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS).start()
    state.feed(random_logits(seed, 25))
    found = state.finish(5, num_with_labels=5)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert len(one.labels.ids) == 25
        assert " ".join(word.text for word in decode_words(one.labels, ALPHABET, TIMING)) == one.text


def test_partial_results_grow_into_the_text() -> None:
    logits = spelled_logits("AB A BA", ALPHABET)
    state = BeamSearch(ALPHABET).start()
    seen = []
    for piece in np.split(logits, len(logits) // 4):
        state.feed(piece)
        seen.append(state.partial())
    assert seen == ["A", "AB", "AB", "AB A", "AB A", "AB A B", "AB A BA"]


def test_special_tokens_are_silence_and_never_written() -> None:
    ids = [3, 1, 3, 2, 1, 4]  # A <s> A | <s> B
    logits = np.full((len(ids), 5), -9.0, np.float32)
    logits[np.arange(len(ids)), ids] = 9.0
    assert BeamSearch(ALPHABET).decode(logits)[0].text == ALPHABET.collapse(ids) == "AA B"


def test_tokens_of_several_letters_and_a_space_between_words() -> None:
    alphabet = Alphabet((" ", "a", "th", "t", "h", "<blank>"), blank=5, delimiter=" ")
    logits = spelled_logits("that hat", alphabet)
    model = NGramModel(build_arpa(["THAT HAT", "hat that"], order=2))
    assert BeamSearch(alphabet, lm=model).decode(logits)[0].text == "that hat"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_texts_that_tokens_spell_in_two_ways_are_one(seed: int) -> None:
    alphabet = Alphabet(("<blank>", "a", "b", "ab"), delimiter=None)
    logits = random_logits(seed, 4, num_tokens=4)
    expected = acoustic_scores(logits, alphabet)
    found = BeamSearch(alphabet, pruning=EXACT).decode(logits, n=10_000)
    assert {one.text: pytest.approx(one.acoustic, abs=1e-9) for one in found} == expected


# ---- language model and hotwords


def test_the_language_model_decides_between_words_that_sound_alike() -> None:
    letters = Alphabet(("<pad>", "|", *"ABEST"), delimiter="|")
    logits = spelled_logits("BEST BEAST", letters, confidence=7.0)
    place = 4 * letters.encode("BEST BEAST").index(letters.ids["A"])
    logits[place : place + 2] = 0.0  # the A is lost
    logits[place : place + 2, letters.ids["A"]] = 1.0
    logits[place : place + 2, letters.blank] = 3.0
    assert BeamSearch(letters).decode(logits)[0].text == "BEST BEST"
    model = NGramModel(build_arpa(["best beast", "best beast", "the best"], order=2))
    weights = FusionWeights(alpha=1.5)
    assert BeamSearch(letters, lm=model, weights=weights).decode(logits)[0].text == "BEST BEAST"


@pytest.mark.parametrize("seed", range(3))
def test_what_is_remembered_of_words_is_bounded_and_forgetting_it_changes_nothing(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = random_logits(seed, 60)
    expected = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS).decode(logits, n=5)
    monkeypatch.setattr("sewkit.decode.fusion.MOST_REMEMBERED", 4)
    search = BeamSearch(ALPHABET, lm=LM, weights=WEIGHTS)
    found = search.decode(logits, n=5)
    assert [(one.text, one.score) for one in found] == [(one.text, one.score) for one in expected]
    assert max(len(search.scorer._scores), len(search.scorer._begun)) <= 4


class SecretiveModel(NGramModel):
    """A model that can't list its words, as KenLM's binaries can't."""

    def words(self) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize("seed", range(5))
def test_a_model_that_cannot_list_its_words_scores_as_one_that_can(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sewkit.decode.beam.COMMIT_FRAMES", 7)
    model = SecretiveModel(build_arpa(["A AB", "AB A B", "B B A", "A A B", "BA"], order=3))
    logits = spelled_logits("AB A BA B", ALPHABET, seed, confidence=9.0)
    listed, secretive = (BeamSearch(ALPHABET, lm=lm, weights=WEIGHTS, pruning=Pruning(4)) for lm in (LM, model))
    expected, found = listed.decode(logits)[0], secretive.decode(logits)[0]
    assert found.text == expected.text
    assert found.lm == pytest.approx(expected.lm)


def test_a_hotword_that_the_language_model_does_not_know_is_heard_without_its_penalty() -> None:
    logits = spelled_logits("A BAB", ALPHABET, confidence=7.0)
    plain, hot = (BeamSearch(ALPHABET, lm=LM, hotwords=words) for words in ((), {"BAB": 2.0}))
    (one,) = hot.decode(logits)
    assert (one.text, one.hotwords) == ("A BAB", 2.0)
    unknown = next(found for found in plain.decode(logits, n=50) if found.text == "A BAB")
    assert one.lm - unknown.lm == pytest.approx(0.5 * 10 * math.log(10))


def test_an_unknown_word_costs_by_its_length_so_that_words_are_not_glued_together() -> None:
    scores = [
        next(
            one.lm
            for one in BeamSearch(ALPHABET, lm=LM).decode(spelled_logits(text, ALPHABET, confidence=9.0), n=50)
            if one.text == text
        )
        for text in ("BAB", "BABBAB", "BABBABBABBAB")
    ]
    penalty = 0.5 * 10 * math.log(10)
    assert [score - scores[0] for score in scores] == pytest.approx([0.0, 0.0, -penalty])


def test_probabilities_below_what_a_float_holds_are_still_counted() -> None:
    """3,000 uncertain frames: the best text has a probability of about e^-1000."""
    logits = np.tile(random_logits(0, 5, sharpness=0.2), (600, 1))
    (found,) = BeamSearch(ALPHABET, pruning=Pruning.off(20)).decode(logits)
    assert -5000 < found.acoustic < -800
    assert math.isfinite(found.score)


def test_hotwords_are_whole_words_and_phrases_and_each_occurrence_counts() -> None:
    search = BeamSearch(ALPHABET, hotwords={"A": 1.0, "A B": 2.0, "BA": 0.5})
    for text, earned in (("A B A B", 6.0), ("AB BAA", 0.0), ("BA A BA", 2.0), ("B", 0.0)):
        assert search.decode(spelled_logits(text, ALPHABET, confidence=9.0))[0].hotwords == earned


def test_known_words_only_if_unknown_ones_are_forbidden() -> None:
    logits = spelled_logits("BAB", ALPHABET, confidence=3.0)
    weights = FusionWeights(unk_score_offset=-math.inf)
    found = BeamSearch(ALPHABET, lm=LM, weights=weights).decode(logits)[0].text
    assert set(found.split()) <= set(LM.words())
    listed = BeamSearch(ALPHABET, words=["BA", "AB"], weights=weights).decode(logits)[0].text
    assert set(listed.split()) <= {"BA", "AB"}


# ---- bad input


def test_a_language_model_in_another_alphabet_is_explained() -> None:
    model = NGramModel(build_arpa(["привет мир", "мир AB"], order=2))
    with pytest.raises(UserError, match="can't be spelled with the speech model's letters") as caught:
        BeamSearch(ALPHABET, lm=model)
    assert "'мир'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BeamSearch(ALPHABET, hotwords=["A", "ZOË"]), "hotword 'ZOË': characters outside the alphabet: O Z Ë"),
        (lambda: BeamSearch(ALPHABET, hotwords="AB"), "expected a list of words"),
        (lambda: BeamSearch(ALPHABET, hotwords=[" "]), "a hotword is empty"),
        (lambda: BeamSearch(ALPHABET, pruning=Pruning(width=0)), "expected a width of 1 or more"),
        (lambda: FusionWeights(alpha=-1.0), "alpha is -1.0"),
        (lambda: BeamSearch(Alphabet(("<b>", "A"), delimiter=None), lm=LM), "no mark between words"),
        (lambda: BeamSearch(ALPHABET).decode(np.zeros((3, 4), np.float32)), r"expected \(frames, 5\)"),
        (lambda: BeamSearch(ALPHABET).decode(np.full((3, 5), np.nan, np.float32)), "NaN"),
    ],
)
def test_bad_input_is_one_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()

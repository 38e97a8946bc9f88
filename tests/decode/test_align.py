"""Forced alignment: times, scores, edges in the sound, and what is missing."""

import numpy as np
import pytest

import sewkit
from sewkit.audio import SAMPLE_RATE
from sewkit.checkpoint import LoadedModel
from sewkit.chunks import CHUNK_SECONDS
from sewkit.decode.align import AlignmentError, Evidence, align_words, sound_around
from sewkit.decode.spelling import spell
from sewkit.lengths import informed_length, num_frames
from sewkit.recognizer import Recognizer
from sewkit.testing import TOYS, synthetic_speech, toy_model
from sewkit.text import Alphabet

ALPHABET = Alphabet.english()
HOP = 320
FRAME = HOP / SAMPLE_RATE


def logits_of(spelling: str, sure: float = 20.0) -> np.ndarray:
    """One character a frame; '.' is the blank."""
    ids = [ALPHABET.blank if letter == "." else ALPHABET.ids[letter] for letter in spelling]
    return (sure * np.eye(len(ALPHABET))[ids]).astype(np.float32)


def sound_of(loudness: str) -> np.ndarray:
    """One digit a frame, 9 full scale, each less 10 dB less; 0 is silence."""
    generator = np.random.default_rng(0)
    gains = [0.0 if digit == "0" else 10 ** ((int(digit) - 9) / 2) for digit in loudness]
    return np.repeat(gains, HOP).astype(np.float32) * generator.uniform(-1, 1, HOP * len(gains)).astype(np.float32)


def aligned(spelling: str, text: str, loudness: str | None = None, snap: bool = False) -> list[sewkit.AlignedWord]:
    reference = spell(text, ALPHABET)
    samples = sound_of(loudness or "9" * len(spelling))
    return align_words(Evidence.of(logits_of(spelling), samples, reference, HOP), reference, FRAME, snap=snap)[0]


def frames(words: list[sewkit.AlignedWord]) -> list[tuple[int, int]]:
    return [(round(word.start / FRAME), round(word.end / FRAME)) for word in words]


def test_without_snapping_words_and_characters_have_their_letters_frames() -> None:
    words = aligned("..OONE..|..TW.O.", "One, two!")
    assert [word.text for word in words] == ["One,", "two!"]
    assert frames(words) == [(2, 6), (11, 15)]
    characters = [(one.text, round(one.start / FRAME), round(one.end / FRAME)) for one in words[1].characters]
    assert characters == [("T", 11, 12), ("W", 12, 13), ("O", 14, 15)]
    assert not any(word.missing for word in words)


def test_snapped_words_last_as_long_as_the_sound_around_their_letters() -> None:
    words = aligned("....ONE......|....TWO....", "one two", "0044999994400000499999900", snap=True)
    assert frames(words) == [(4, 9), (17, 23)]


def test_words_that_touch_part_at_the_quietest_moment() -> None:
    words = aligned("....ONE...|...TWO...", "one two", "00999999997999999900", snap=True)
    assert words[0].end == words[1].start
    assert 10 * FRAME <= words[0].end <= 11 * FRAME


def test_a_closure_is_part_of_a_word_and_a_pause_is_not() -> None:
    words = aligned("..EIGHT" + "." * 20, "eight", "9" * 7 + "0" * 4 + "99" + "0" * 8 + "9" * 6, snap=True)
    assert frames(words) == [(0, 13)]


def test_snapped_characters_fill_their_word_in_order() -> None:
    (word,) = aligned("....O..N.E....", "one", "00999999999900", snap=True)
    edges = [word.start] + [character.end for character in word.characters]
    assert edges == sorted(edges)
    assert edges[-1] == word.end
    assert [character.start for character in word.characters] == edges[:-1]


def test_steady_noise_is_no_part_of_a_word() -> None:
    """20 dB below the word, which alone would count as its sound."""
    words = aligned("." * 20 + "ONE" + "." * 20, "one", "7" * 19 + "99999" + "7" * 19, snap=True)
    assert frames(words) == [(19, 24)]


def test_sound_is_measured_without_an_offset() -> None:
    reference = spell("a", ALPHABET)
    samples = sound_of("900")
    plain, shifted = (Evidence.of(logits_of("A.."), one, reference, HOP).power for one in (samples, samples + 0.3))
    np.testing.assert_allclose(plain, shifted, atol=1e-6)


def test_scores_are_mean_log_posteriors_and_confidence_is_that_of_greedy_decoding() -> None:
    reference = spell("ab", ALPHABET)
    probabilities = np.full((3, 32), 1e-12, np.float32)
    probabilities[[0, 1, 2], [ALPHABET.ids["A"], ALPHABET.ids["A"], ALPHABET.ids["B"]]] = [0.5, 0.9, 0.7]
    probabilities[:, 1] = 1 - probabilities.sum(1)
    evidence = Evidence.of(np.log(probabilities), sound_of("999"), reference, HOP)
    (word,), score = align_words(evidence, reference, FRAME)
    assert word.score == pytest.approx(np.log([0.5, 0.9, 0.7]).mean(), abs=1e-4)
    assert word.confidence == pytest.approx((0.9 + 0.7) / 2, abs=1e-4)
    assert score == pytest.approx(word.score, abs=1e-6)


def test_a_word_that_is_not_spoken_is_missing_and_takes_nothing_from_its_neighbours() -> None:
    spelling, loudness = "....ONE......|....TWO....", "0044999994400000499999900"
    right = aligned(spelling, "one two", loudness, snap=True)
    words = aligned(spelling, "one eleven two", loudness, snap=True)
    assert [word.missing for word in words] == [False, True, False]
    assert frames(words)[::2] == frames(right)
    assert words[0].end <= words[1].start <= words[1].end <= words[2].start


def test_a_text_longer_than_the_sound_can_carry_is_named_with_both_lengths() -> None:
    with pytest.raises(AlignmentError, match=r"5 letters need at least 0.12 s of sound, found 0.10 s; check"):
        aligned(".....", "hello")


def test_spans_never_overlap_nor_cut_letters(noise: np.random.Generator) -> None:
    for _ in range(50):
        edges = np.sort(noise.choice(300, 20, replace=False)).reshape(-1, 2)
        power = noise.exponential(size=300) ** 4
        spans = sound_around(edges, power)
        assert (spans[1:, 0] >= spans[:-1, 1]).all()
        assert (spans[:, 0] <= edges[:, 0]).all()
        assert (spans[:, 1] >= edges[:, 1]).all()
        assert (spans[:, 1] <= 300).all()


# ---- with a model --------------------------------------------------------------------------------------------------


class LoudnessRuntime:
    """A model that says A in loud frames and B in the loudest: where it says them is known."""

    def __init__(self, config: sewkit.ModelConfig):
        self.config = config

    def logits(self, waveforms: list[np.ndarray], compute: sewkit.Compute | None = None) -> list[np.ndarray]:
        """(frames, 3), zeros for those of SEW's zero tail."""
        return [self._of(waveform) for waveform in waveforms]

    def _of(self, waveform: np.ndarray) -> np.ndarray:
        frames = num_frames(len(waveform), self.config.conv_layers)
        level = np.abs(waveform[: frames * HOP]).reshape(frames, HOP).mean(1)
        logits = 10 * np.eye(3)[np.digitize(level, [0.2, 0.6])]
        logits[informed_length(frames, self.config.squeeze_factor) :] = 0
        return logits.astype(np.float32)


@pytest.mark.parametrize("name", ["w2v2", "sew-s1", "sew", "sew-s3", "sew-s4", "sew-d"])
@pytest.mark.parametrize("snap", [True, False])
def test_times_are_true_in_every_chunk_and_at_every_squeeze_factor(name: str, snap: bool) -> None:
    """Within a frame, over three chunks; the last word ends 0.1 s before the recording."""
    config = TOYS[name]
    alphabet = Alphabet(("<pad>", "A", "B"), delimiter=None)
    asr = Recognizer(LoadedModel(toy_model(config), alphabet), LoudnessRuntime(config), name)
    starts = np.r_[np.arange(0.52, 2.5 * CHUNK_SECONDS, 1.37), 2.5 * CHUNK_SECONDS + 1.0]
    sound = np.zeros(int((starts[-1] + 0.3) * SAMPLE_RATE), np.float32)
    for number, start in enumerate(starts):
        first = int(start * SAMPLE_RATE)
        sign = np.where(np.arange(3200) % 2, 1, -1)
        sound[first : first + 3200] = sign * (0.9 if number % 2 else 0.4)
    words = asr.align(sound, " ".join("AB"[number % 2] for number in range(len(starts))), snap=snap).words
    np.testing.assert_allclose([word.start for word in words], starts, atol=0.021)
    np.testing.assert_allclose([word.end for word in words], starts + 0.2, atol=0.021)


def test_a_recording_is_aligned_as_it_is_alone_whatever_shares_its_batch(toy: sewkit.Recognizer) -> None:
    pairs = [
        (synthetic_speech(SAMPLE_RATE * seconds, seconds), text) for seconds, text in ((2, "one"), (41, "two two"))
    ]
    for together, (sound, text) in zip(toy.align_batch(pairs), pairs, strict=True):
        assert together.words == toy.align(sound, text).words


def test_what_cannot_be_aligned_goes_to_on_error_and_the_others_are_done(toy: sewkit.Recognizer) -> None:
    sound = synthetic_speech(SAMPLE_RATE)
    problems: list[sewkit.AudioError] = []
    pairs = [(sound, "one"), ("missing.wav", "one"), (sound, "one " * 200), (sound, "two")]
    found = list(toy.align_batch(pairs, on_error=problems.append))
    assert [alignment.text for alignment in found] == ["one", "two"]
    assert [problem.problem.split(";")[0] for problem in problems] == [
        "no such file",
        "the text's 799 letters need at least 15.98 s of sound, found 0.96 s",
    ]


def test_a_model_without_letters_says_so(toy: sewkit.Recognizer) -> None:
    config = TOYS["sew"].replace(vocab_size=None)
    asr = Recognizer(LoadedModel(toy_model(config)), LoudnessRuntime(config), "headless")
    with pytest.raises(sewkit.UserError, match="headless has no letters: fine-tune it"):
        asr.align(np.zeros(SAMPLE_RATE, np.float32), "one")

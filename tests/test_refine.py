"""Two passes: what is heard again, how it joins what was heard first, and what both ends of the threshold give."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sewkit
from sewkit.checkpoint import LoadedModel, save_model
from sewkit.cli.main import app
from sewkit.compute import Compute, Refinement
from sewkit.errors import UserError
from sewkit.recognizer import Recognizer
from sewkit.refine import Heard, Stretch, TwoPasses, doubt, stretches
from sewkit.runtime.pytorch import TorchRuntime, pick_device
from sewkit.segments import Segmentation
from sewkit.testing import synthetic_speech, toy_model
from sewkit.text import Alphabet

CHEAP, FULL = Compute(4, 2, 2), Compute(1)
SECONDS = (3.0, 1.37, 7.013, 0.061)
SILENT = Alphabet.english().silent


class WholeOnly:
    """A runtime that cannot stop behind the feature extractor."""

    def __init__(self, runtime: TorchRuntime):
        self.config, self.logits = runtime.config, runtime.logits
        self.encode, self.class_scores = runtime.encode, runtime.class_scores


@pytest.fixture(scope="module")
def runtime() -> TorchRuntime:
    return TorchRuntime(toy_model("stochastic-sew"), pick_device("cpu"))


@pytest.fixture(scope="module")
def sounds() -> list[np.ndarray]:
    return [synthetic_speech(int(16_000 * seconds), seed=number) for number, seconds in enumerate(SECONDS)]


@pytest.fixture(scope="module")
def asr() -> Recognizer:
    model = toy_model("stochastic-sew")
    return Recognizer(LoadedModel(model, Alphabet.english()), TorchRuntime(model, pick_device("cpu")), "toy")


def passes(runtime: TorchRuntime | WholeOnly, threshold: float, margin: float = 0.96) -> TwoPasses:
    return TwoPasses(runtime, CHEAP, FULL, Refinement(threshold, margin=margin), SILENT)


def median_doubt(runtime: TorchRuntime, sound: np.ndarray) -> float:
    (logits,) = runtime.logits([sound], CHEAP)
    return float(np.quantile(doubt(logits), 0.8))


# ---- what is heard again -----------------------------------------------------------------------------------------


def test_doubt_is_low_where_one_label_is_nearly_certain_and_spreads_over_half_a_second() -> None:
    logits = np.zeros((200, 4), np.float32)
    logits[:, 0] = 20
    logits[100] = 0
    found = doubt(logits)
    assert found[88:113] == pytest.approx(0.75 / 25)
    assert found[:88].max() < 1e-6
    assert found[113:].max() < 1e-6
    assert doubt(np.zeros((0, 4), np.float32)).shape == (0,)


def test_stretches_lie_on_the_grid_and_those_whose_margins_meet_are_one() -> None:
    doubts = np.zeros(480)
    doubts[[100, 170, 340]] = 0.5
    heard = Heard(doubts, np.arange(480), 481)
    assert stretches(heard, 0.5, unit=24, margin=24) == [Stretch(96, 192, 72, 216), Stretch(336, 360, 312, 384)]
    assert stretches(heard, 0.5, unit=24, margin=0) == [Stretch(n, n + 24, n, n + 24) for n in (96, 168, 336)]
    assert stretches(heard, 0.6, unit=24, margin=24) == []
    assert stretches(heard, 0.0, unit=24, margin=0) == [Stretch(0, 481, 0, 481)]


def test_what_is_heard_again_begins_and_ends_in_pauses_of_one_to_two_margins() -> None:
    doubts = np.zeros(2000)
    doubts[1000] = 0.5
    letters = np.setdiff1d(
        np.arange(2000), [*range(888, 918), *range(1090, 1102), *range(1120, 1180), *range(700, 780)]
    )
    (stretch,) = stretches(Heard(doubts, letters, 2000), 0.5, unit=24, margin=72)
    assert stretch == Stretch(984, 1008, 912, 1152)  # 888, alone, is the edge of a word; 720 and 1176 are too far
    (stretch,) = stretches(Heard(doubts, np.arange(2000), 1050), 0.5, unit=24, margin=72)
    assert stretch.last == 1050


# ---- both ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.96])
def test_a_stretch_over_everything_is_the_second_point_and_none_is_the_first(runtime, sounds, margin: float) -> None:
    """Features are the same numbers; 1e-5 for another order of sums in padded batches."""
    for one, threshold, point in ((runtime, 0.0, FULL), (runtime, 1.0, CHEAP), (WholeOnly(runtime), 0.0, FULL)):
        for found, whole in zip(
            passes(one, threshold, margin).logits(sounds), runtime.logits(sounds, point), strict=True
        ):
            informed = len(whole) // point.squeeze * point.squeeze
            assert found.shape == whole[:informed].shape
            np.testing.assert_allclose(found, whole[:informed], atol=1e-5)


def test_transcribing_at_both_ends_is_transcribing_at_a_single_point(asr: Recognizer, sounds) -> None:
    """Words and times; a recording of a minute is heard in chunks."""
    long = synthetic_speech(16_000 * 62, seed=9)
    for sound in (sounds[2], long):
        for threshold, point in ((0.0, FULL), (1.0, CHEAP)):
            refined = asr.transcribe(sound, compute=CHEAP, refine=Refinement(threshold))
            assert refined.words == asr.transcribe(sound, compute=point).words
            assert refined.compute == CHEAP


# ---- in between --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [True, False])
def test_every_frame_is_of_one_of_the_two_passes_and_those_in_doubt_of_the_second(runtime, sounds, split: bool) -> None:
    sound = sounds[2]
    both = passes(runtime if split else WholeOnly(runtime), median_doubt(runtime, sound))
    (refined,), (first,) = both.logits([sound]), runtime.logits([sound], CHEAP)
    again = stretches(Heard.of(first, 4, SILENT), both._threshold, 24, 48)
    assert 0 < sum(one.end - one.start for one in again) < len(first)
    changed = (refined != first[: len(refined)]).any(1)
    inside = np.zeros(len(refined), bool)
    for one in again:
        assert changed[one.start : one.end].all()
        inside[max(0, one.start - 24) if one.first else 0 : one.end + 24 if one.last < len(first) else None] = True
    assert not changed[~inside].any()


def test_what_is_heard_again_does_not_depend_on_what_shares_the_batch(runtime, sounds) -> None:
    """1e-4 on logits, as everywhere."""
    both = passes(runtime, median_doubt(runtime, sounds[2]))
    for together, sound in zip(both.logits(sounds), sounds, strict=True):
        np.testing.assert_allclose(together, both.logits([sound])[0], atol=1e-4)


def test_the_second_pass_does_not_extract_features_again(runtime, sounds, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    extract = runtime.model.extract
    monkeypatch.setattr(runtime.model, "extract", lambda *args: calls.append(1) or extract(*args))
    passes(runtime, 0.0).logits(sounds)
    assert len(calls) == 1


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_what_cannot_be_refined_is_one_clear_error(asr: Recognizer, sounds) -> None:
    with pytest.raises(UserError, match=r"threshold from 0 to 1 and a margin from 0 to 10"):
        sewkit.Refinement(1.5)
    with pytest.raises(UserError, match=r"toy has no calibrated threshold for two passes: find it with sewkit sweep"):
        asr.transcribe(sounds[0], refine=True)
    with pytest.raises(UserError, match="refine hears chunks, not segments"):
        asr.transcribe(sounds[0], refine=Refinement(0.5), segmentation=Segmentation())
    with pytest.raises(UserError, match="does not run at squeeze=9"):
        asr.transcribe(sounds[0], refine=Refinement(0.5, "squeeze=9"))
    fixed = toy_model("sew")
    plain = Recognizer(LoadedModel(fixed, Alphabet.english()), TorchRuntime(fixed, pick_device("cpu")), "plain")
    with pytest.raises(UserError, match="plain has one operating point, squeeze=2: leave out refine"):
        plain.transcribe(sounds[0], refine=True)


def test_the_verb_refuses_to_refine_what_it_cannot(tmp_path: Path) -> None:
    save_model(tmp_path, toy_model("stochastic-sew"), Alphabet.english())
    clip = Path(__file__).parent / "clips"
    for arguments, message in (
        ([str(clip), "--refine"], "has no calibrated threshold for two passes: find it with sewkit sweep MODEL DATA"),
        (["--live", "--refine"], "--refine hears recordings again; live sound is heard once"),
        ([str(clip), "--refine", "--segment"], "has no calibrated threshold for two passes"),
    ):
        result = CliRunner().invoke(app, ["transcribe", *arguments, "-m", str(tmp_path)])
        assert isinstance(result.exception, UserError)
        assert message in str(result.exception)

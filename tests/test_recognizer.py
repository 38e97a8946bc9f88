"""The public surface: load, transcribe, transcribe_batch, logits, encode, save."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import sewkit
from sewkit import chunks
from sewkit.checkpoint import LoadedModel, load_model, save_model
from sewkit.lengths import num_frames
from sewkit.processor import multiplies
from sewkit.runtime import export
from sewkit.runtime.pytorch import TorchRuntime
from sewkit.testing import TOYS, toy_model
from sewkit.text import Alphabet

RATE = 16_000


def test_a_model_without_letters_gives_logits_but_no_text(noise: np.random.Generator) -> None:
    model = toy_model("sew")
    asr = sewkit.Recognizer(LoadedModel(model), TorchRuntime(model, torch.device("cpu")), "silent")
    waveform = clip(noise, 0.5)
    assert asr.logits([waveform])[0].shape == (24, 32)
    with pytest.raises(sewkit.UserError, match="silent has no letters"):
        asr.transcribe(waveform)


def clip(generator: np.random.Generator, seconds: float) -> np.ndarray:
    """Noise whose loudness and colour wander, so that a random model does not write the same letter throughout."""
    samples = generator.standard_normal(int(seconds * RATE)).astype(np.float32)
    swell = np.interp(np.arange(len(samples)), np.linspace(0, len(samples), 50), generator.uniform(0.01, 0.5, 50))
    return (np.cumsum(samples) % 1.0 - 0.5).astype(np.float32) * swell.astype(np.float32)


def test_path_bytes_file_object_and_array_give_the_same_transcript(
    toy: sewkit.Recognizer, noise: np.random.Generator, tmp_path: Path
) -> None:
    samples = clip(noise, 2.0)
    path = tmp_path / "clip.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    expected = toy.transcribe(samples)
    assert expected.text
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
        transcript = toy.transcribe(source)
        assert transcript.text == expected.text
        assert transcript.words == expected.words


def test_a_transcript_says_how_long_the_sound_was_and_at_which_point_it_ran(
    toy: sewkit.Recognizer, noise: np.random.Generator
) -> None:
    transcript = toy.transcribe(clip(noise, 1.5))
    assert transcript.duration == 1.5
    assert transcript.compute == sewkit.Compute(squeeze=2)
    assert all(0 <= word.start < word.end <= 1.5 and 0 < word.confidence <= 1 for word in transcript.words)
    assert transcript.text == " ".join(word.text for word in transcript.words)


def test_what_shares_a_batch_changes_nothing(toy: sewkit.Recognizer, noise: np.random.Generator) -> None:
    waveforms = [clip(noise, seconds) for seconds in (3.0, 0.7, 1.93, 0.1, 0.02)]
    for together, waveform in zip(toy.logits(waveforms), waveforms, strict=True):
        (alone,) = toy.logits([waveform])
        assert together.shape == alone.shape == (num_frames(len(waveform), TOYS["sew"].conv_layers), 32)
        np.testing.assert_allclose(together, alone, atol=1e-4)
    for together, waveform in zip(toy.encode(waveforms), waveforms, strict=True):
        np.testing.assert_allclose(together, toy.encode([waveform])[0], atol=1e-4)


@pytest.mark.parametrize("num_samples", [1, 300, 399, 400, 719, 720])
def test_clips_shorter_than_a_squeezed_frame_have_no_words(toy: sewkit.Recognizer, num_samples: int) -> None:
    samples = np.full(num_samples, 0.3, np.float32)
    transcript = toy.transcribe(samples)
    assert np.isfinite(toy.logits([samples])[0]).all()
    if num_samples < 720:  # 720 samples are two frames, which are one squeezed frame
        assert (transcript.text, transcript.words) == ("", [])


def test_transcripts_come_in_the_order_of_the_sources(toy: sewkit.Recognizer, noise: np.random.Generator) -> None:
    sources = [clip(noise, seconds) for seconds in (0.5, 4.0, 1.0, 2.5, 0.8, 3.0)]
    toy_texts = [toy.transcribe(source).text for source in sources]
    asr = sewkit.Recognizer(toy.loaded, toy.runtime, "toy", batch_seconds=1.0)
    assert [transcript.text for transcript in asr.transcribe_batch(iter(sources))] == toy_texts


def test_a_bad_recording_is_reported_and_the_others_are_still_done(
    toy: sewkit.Recognizer, noise: np.random.Generator, tmp_path: Path
) -> None:
    good = clip(noise, 1.0)
    broken = good.copy()
    broken[5000] = np.nan
    problems: list[sewkit.AudioError] = []
    sources = [good, tmp_path / "missing.wav", broken, good]
    transcripts = list(toy.transcribe_batch(sources, on_error=problems.append))
    assert len(transcripts) == 2
    assert [problem.source for problem in problems] == [str(tmp_path / "missing.wav"), "<array>"]
    with pytest.raises(sewkit.AudioError, match=r"missing\.wav"):
        list(toy.transcribe_batch(sources))


def test_progress_adds_up_to_the_length_of_the_sound(toy: sewkit.Recognizer, noise: np.random.Generator) -> None:
    seconds: list[float] = []
    toy.transcribe(clip(noise, 75.3), on_progress=seconds.append)
    assert len(seconds) >= 3
    assert sum(seconds) == pytest.approx(75.3)


def test_stitched_chunks_equal_the_whole_for_a_model_that_hears_no_further_than_the_margin(
    noise: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No attention and no statistics over time: every word and time is that of the recording in one piece."""
    model = toy_model(TOYS["sew"].replace(num_layers=0, extractor_norm="layer"))
    asr = sewkit.Recognizer(LoadedModel(model, Alphabet.english()), TorchRuntime(model, torch.device("cpu")), "local")
    samples = clip(noise, 75.3)
    stitched = asr.transcribe(samples)
    monkeypatch.setattr(chunks, "CHUNK_SECONDS", 100.0)
    whole = asr.transcribe(samples)
    assert len(whole.text) > 500  # gibberish without end, every letter of it compared
    assert [(w.text, w.start, w.end) for w in stitched.words] == [(w.text, w.start, w.end) for w in whole.words]


def test_a_saved_model_is_the_model(toy: sewkit.Recognizer, noise: np.random.Generator, tmp_path: Path) -> None:
    toy.save(tmp_path / "copy")
    waveform = clip(noise, 1.0)
    np.testing.assert_array_equal(sewkit.load(tmp_path / "copy").logits([waveform])[0], toy.logits([waveform])[0])


def test_an_operating_point_that_the_model_lacks_is_refused(toy: sewkit.Recognizer) -> None:
    assert toy.compute_options == (sewkit.Compute(squeeze=2),)
    with pytest.raises(ValueError, match=r"does not run at squeeze=4; it runs at: squeeze=2"):
        toy.transcribe(np.zeros(RATE, np.float32), compute=sewkit.Compute(squeeze=4))


def test_a_request_of_another_type_is_refused(toy: sewkit.Recognizer) -> None:
    with pytest.raises(TypeError, match="compute must be a name, a Compute or a Budget, not int"):
        toy.transcribe(np.zeros(RATE, np.float32), compute=4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"runtime": "tensorrt"}, "runtime 'tensorrt' is not known"),
        ({"dtype": "int3"}, "dtype 'int3' is not known"),
        ({"device": "cuda:99"}, "device 'cuda:99' can't be used here"),
        ({"device": "abacus"}, "device 'abacus' can't be used here"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(toy_folder: Path, keywords: dict, message: str) -> None:
    with pytest.raises(sewkit.UserError, match=message) as raised:
        sewkit.load(toy_folder, **keywords)
    assert "\n" not in str(raised.value)


def test_the_weights_are_held_once_and_read_again_to_be_saved(toy_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_folder, tmp_path / "toy")
    asr = sewkit.load(tmp_path / "toy")
    exact = load_model(toy_folder).model
    assert asr.loaded.shape_only
    assert asr.loaded.model.num_parameters() == exact.num_parameters()
    assert all(weight.untyped_storage().nbytes() == 4 for weight in asr.loaded.model.parameters())
    with pytest.raises(RuntimeError, match="names and shapes only"):
        asr.loaded.model(torch.zeros(1, 8000), torch.tensor([8000]))
    asr.save(tmp_path / "again")
    again = load_model(tmp_path / "again").model.state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in exact.state_dict().items())
    save_model(tmp_path / "toy", toy_model("sew"), Alphabet.english())
    with pytest.raises(sewkit.UserError, match="holds another model than the one that was loaded"):
        asr.save(tmp_path / "again")


def test_a_precision_that_the_processor_lacks_is_refused(toy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "multiplies", lambda dtype, device: dtype == torch.float32)
    assert sewkit.load(toy_folder, device="cpu").runtime.dtype == torch.float32
    with pytest.raises(sewkit.UserError, match="dtype 'bfloat16': this processor has no products in it"):
        sewkit.load(toy_folder, device="cpu", dtype="bfloat16")


@pytest.mark.skipif(not multiplies(torch.bfloat16, torch.device("cpu")), reason="this processor has no bfloat16")
def test_bfloat16_stays_near_float32(toy_folder: Path, noise: np.random.Generator) -> None:
    waveform = clip(noise, 2.0)
    (exact,), (rough,) = (sewkit.load(toy_folder, dtype=dtype).logits([waveform]) for dtype in ("float32", "bfloat16"))
    assert exact.dtype == rough.dtype == np.float32
    assert np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()

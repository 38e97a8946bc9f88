"""Classification of recordings, in Python and on the command line."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import sewkit
from sewkit.checkpoint import LoadedModel, save_model
from sewkit.classification import PooledScores, rank
from sewkit.cli.main import app
from sewkit.runtime.pytorch import TorchRuntime
from sewkit.testing import TOYS, synthetic_speech, toy_model

RATE = 16_000
LABELS = ("ann", "bob", "cas", "dee", "eve")


def classifier(name: str = "sew", weighted: bool = False) -> sewkit.Recognizer:
    model = toy_model(TOYS[name].replace(vocab_size=None, num_labels=len(LABELS), weighted_layer_sum=weighted))
    loaded = LoadedModel(model, labels=LABELS, label_column="speaker")
    return sewkit.Recognizer(loaded, TorchRuntime(model, torch.device("cpu")), "voices", batch_seconds=4.0)


def by_label(found: sewkit.Classification) -> list[float]:
    scores = {one.label: one.score for one in found.scores}
    return [scores[label] for label in LABELS]


@pytest.fixture(scope="module")
def voices() -> sewkit.Recognizer:
    return classifier()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, voices: sewkit.Recognizer) -> Path:
    folder = tmp_path_factory.mktemp("models") / "voices"
    voices.save(folder)
    return folder


# ---- one recording -----------------------------------------------------------------------------------------------


def test_scores_are_the_softmax_of_the_models_best_first(voices: sewkit.Recognizer) -> None:
    waveform = synthetic_speech(2 * RATE + 77)
    found = voices.classify(waveform)
    with torch.inference_mode():
        scores, _ = voices.loaded.model(torch.from_numpy(waveform)[None], torch.tensor([len(waveform)]))
    np.testing.assert_allclose(by_label(found), scores.softmax(1)[0].numpy(), atol=1e-6)
    assert [one.score for one in found.scores] == sorted((one.score for one in found.scores), reverse=True)
    assert found.label == found.scores[0].label
    assert (found.duration, found.compute, found.source) == (len(waveform) / RATE, sewkit.Compute(squeeze=2), "<array>")


def test_top_keeps_the_best_and_leaves_their_scores(voices: sewkit.Recognizer) -> None:
    waveform = synthetic_speech(RATE)
    assert voices.classify(waveform, top=2).scores == voices.classify(waveform).scores[:2]
    assert len(voices.classify(waveform, top=99).scores) == 5
    with pytest.raises(sewkit.UserError, match="top is 0; expected"):
        voices.classify(waveform, top=0)


def test_large_scores_do_not_overflow() -> None:
    assert rank(np.array([2000.0, 0.0], np.float32), ("a", "b"))[0].score == 1.0


def test_json_has_plain_types(voices: sewkit.Recognizer) -> None:
    facts = json.loads(json.dumps(voices.classify(synthetic_speech(RATE), top=1).to_dict()))
    assert facts["label"] == facts["scores"][0]["label"]
    assert facts["duration"] == 1.0
    assert facts["compute"] == {"squeeze": 2, "query_pool": 1, "kv_pool": 1}


# ---- many recordings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["w2v2-prenorm", "sew", "sew-d-s3"])
def test_a_batch_gives_in_order_what_each_recording_gives_alone(name: str, weighted: bool) -> None:
    """Within 1e-4; a recording of several pieces among them."""
    asr = classifier(name, weighted)
    sources = [synthetic_speech(int(seconds * RATE), seed) for seed, seconds in enumerate((0.5, 3.0, 31.7, 0.07, 2.2))]
    together = list(asr.classify_batch(iter(sources)))
    assert [found.duration for found in together] == [len(source) / RATE for source in sources]
    for found, source in zip(together, sources, strict=True):
        np.testing.assert_allclose(by_label(found), by_label(asr.classify(source)), atol=1e-4)
    answers = np.array([by_label(found) for found in together])
    assert np.ptp(answers, axis=0).max() > 0.01  # not the same answer throughout


def test_bad_recordings_are_reported_and_the_others_are_still_done(voices: sewkit.Recognizer, tmp_path: Path) -> None:
    good, broken = synthetic_speech(RATE), np.full(RATE, np.nan, np.float32)
    problems: list[sewkit.AudioError] = []
    sources = [good, tmp_path / "missing.wav", broken, good[:700], good]
    assert len(list(voices.classify_batch(sources, on_error=problems.append))) == 2
    assert [problem.source for problem in problems] == [str(tmp_path / "missing.wav"), "<array>", "<array>"]
    with pytest.raises(sewkit.AudioError, match=r"missing\.wav"):
        list(voices.classify_batch(sources))


def test_a_recording_without_a_frame_of_sound_is_too_short(voices: sewkit.Recognizer) -> None:
    """What the head gives without any frame is its bias, the same for every sound."""
    assert voices.classify(synthetic_speech(720)).scores
    with pytest.raises(sewkit.AudioError, match=r"too short to classify \(719 samples at 16 kHz\).* at least 720"):
        voices.classify(synthetic_speech(719))


# ---- long recordings ---------------------------------------------------------------------------------------------


def test_up_to_thirty_seconds_are_one_piece(voices: sewkit.Recognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = voices.runtime.class_scores

    def noted(waveforms: list[np.ndarray], compute: sewkit.Compute | None = None) -> list[np.ndarray]:
        sizes.extend(len(waveform) for waveform in waveforms)
        return run(waveforms, compute)

    monkeypatch.setattr(voices.runtime, "class_scores", noted)
    chunk = 30 * RATE // 3840 * 3840  # whole windows of every squeeze factor
    for seconds in (29.9, 75.3):
        sizes.clear()
        voices.classify(np.zeros(int(seconds * RATE), np.float32))
        assert sum(sizes) == int(seconds * RATE)  # every sample once
        assert max(sizes) <= chunk
        assert len(sizes) == (1 if seconds < 30 else 3)


def test_pieces_weigh_as_much_as_their_frames(voices: sewkit.Recognizer) -> None:
    waveform = synthetic_speech(int(40.5 * RATE))
    chunk = 30 * RATE // 3840 * 3840
    long, short = voices.runtime.class_scores([waveform[:chunk], waveform[chunk:]])
    frames = np.array([(chunk - 400) // 320 + 1, (len(waveform) - chunk - 400) // 320 + 1]) // 2 * 2
    mean = (long * frames[0] + short * frames[1]) / frames.sum()
    expected = np.exp(mean) / np.exp(mean).sum()
    np.testing.assert_allclose(by_label(voices.classify(waveform)), expected, atol=1e-6)


def test_averaged_pieces_are_the_whole_where_the_model_hears_no_further_than_a_piece() -> None:
    """No attention, no statistics over time: only positions next to the one seam differ. Within 2e-3."""
    config = TOYS["sew"].replace(
        num_layers=0, extractor_norm="layer", vocab_size=None, num_labels=len(LABELS), pos_conv_kernel=3
    )
    model = toy_model(config)
    runtime = TorchRuntime(model, torch.device("cpu"))
    local = sewkit.Recognizer(LoadedModel(model, labels=LABELS), runtime, "local")
    waveform = np.concatenate([synthetic_speech(25 * RATE), 0.1 * synthetic_speech(25 * RATE, 3)])
    whole = rank(runtime.class_scores([waveform])[0], LABELS)
    found = local.classify(waveform)
    assert found.label == whole[0].label
    np.testing.assert_allclose(by_label(found), by_label(dataclasses.replace(found, scores=whole)), atol=2e-3)


def test_a_piece_without_frames_plays_no_part_beside_others() -> None:
    pieces = [PooledScores(np.array([1.0, 3.0]), 7), PooledScores(np.array([99.0, 0.0]), 0)]
    assert PooledScores.pool(pieces).scores.tolist() == [1.0, 3.0]
    assert PooledScores.pool(pieces[1:]).num_frames == 0


def test_progress_adds_up_to_the_length_of_the_sound(voices: sewkit.Recognizer) -> None:
    seconds: list[float] = []
    voices.classify(np.zeros(int(61.3 * RATE), np.float32), on_progress=seconds.append)
    assert len(seconds) == 3
    assert sum(seconds) == pytest.approx(61.3)


# ---- models for something else -----------------------------------------------------------------------------------


def test_each_kind_of_model_says_what_it_is_for(toy: sewkit.Recognizer, voices: sewkit.Recognizer) -> None:
    sound = np.zeros(RATE, np.float32)
    with pytest.raises(sewkit.UserError, match="transcribes, it does not classify: use transcribe"):
        toy.classify(sound)
    with pytest.raises(sewkit.UserError, match=r"voices classifies recordings \(5 labels\), it does not transcribe"):
        voices.transcribe(sound)
    with pytest.raises(sewkit.UserError, match="voices has no CTC head"):
        voices.logits([sound])
    bare = toy_model(TOYS["sew"].replace(vocab_size=None))
    encoder = sewkit.Recognizer(LoadedModel(bare), TorchRuntime(bare, torch.device("cpu")), "encoder")
    with pytest.raises(sewkit.UserError, match="encoder has no classification head: fine-tune it with labels"):
        encoder.classify(sound)
    nameless = sewkit.Recognizer(LoadedModel(voices.loaded.model), voices.runtime, "nameless")
    with pytest.raises(sewkit.UserError, match="nameless has no names for its classes"):
        nameless.classify(sound)


def test_a_saved_classifier_gives_the_same_scores_and_knows_its_column(
    voices: sewkit.Recognizer, saved: Path, tmp_path: Path
) -> None:
    sound = synthetic_speech(RATE)
    loaded = sewkit.load(saved)
    assert loaded.classify(sound).scores == voices.classify(sound).scores
    assert loaded.loaded.label_column == "speaker"


# ---- the command line --------------------------------------------------------------------------------------------


def run(*arguments: object, status: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result.stdout, result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "two")):
        soundfile.write(tmp_path / f"{name}.wav", synthetic_speech(RATE, seed), RATE)
    (tmp_path / "bad.wav").write_text("this is not sound\n")
    return tmp_path


def test_the_verb_prints_a_line_a_recording_and_reports_bad_ones(folder: Path, saved: Path) -> None:
    out, err = run("classify", folder, folder / "missing.wav", "-m", saved, status=1)
    lines = out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(folder / "one.wav"), str(folder / "two.wav")]
    best = sewkit.load(saved).classify(folder / "one.wav").scores[:3]
    assert lines[0].split(": ")[1] == ", ".join(f"{one.label} {one.score:.1%}" for one in best)
    assert [line.split(": ")[1] for line in err.splitlines()] == [str(folder / "bad.wav"), str(folder / "missing.wav")]


def test_one_recording_prints_its_classes_alone_and_json_all_facts(folder: Path, saved: Path) -> None:
    out, err = run("classify", folder / "o*.wav", "-m", saved, "--top", 1)
    label, score = out.split()
    assert label in LABELS
    assert score.endswith("%")
    assert err == ""
    facts = json.loads(run("classify", folder / "one.wav", "-m", saved, "--json")[0])
    assert facts["source"] == str(folder / "one.wav")
    assert len(facts["scores"]) == 3
    assert facts["label"] == label


def test_standard_input_is_a_recording(folder: Path, saved: Path) -> None:
    command = [sys.executable, "-m", "sewkit", "classify", "-", "-m", str(saved)]
    result = subprocess.run(command, input=(folder / "one.wav").read_bytes(), capture_output=True, check=True)
    assert result.stdout.decode() == run("classify", folder / "one.wav", "-m", saved)[0]


# ---- sewkit evaluate ---------------------------------------------------------------------------------------------


@pytest.fixture
def manifest(folder: Path, saved: Path) -> Path:
    """Two rows: the first under the name that the model gives it, the second under another."""
    rows = []
    for name in ("one", "two"):
        answer = sewkit.load(saved).classify(folder / f"{name}.wav").label
        speaker = answer if name == "one" else next(label for label in LABELS if label != answer)
        columns = {"duration": 1.0, "split": "test", "mood": "glad"}
        rows.append({"audio": f"{name}.wav", "speaker": speaker, **columns})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


def test_evaluate_compares_with_the_column_that_the_model_was_trained_on(
    folder: Path, saved: Path, manifest: Path
) -> None:
    out, _ = run("evaluate", manifest, "-m", saved)
    assert out.startswith("manifest, speaker: accuracy 50.0% [9.5%, 90.5%] of 2 recordings, macro F1 ")
    facts = json.loads(run("evaluate", manifest, "-m", saved, "--json", "--confusion", folder / "c.png")[0])
    assert (facts["label_column"], facts["audio_seconds"]) == ("speaker", 2.0)
    assert sum(map(sum, facts["confusion"])) == 2
    assert (folder / "c.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_measures_the_others_where_a_recording_is_bad(folder: Path, saved: Path, manifest: Path) -> None:
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    bad = {**rows[1], "audio": "bad.wav"}
    manifest.write_text("".join(json.dumps(row) + "\n" for row in (bad, *rows)))
    out, err = run("evaluate", manifest, "-m", saved, status=1)
    assert "accuracy 50.0% [9.5%, 90.5%] of 2 recordings" in out
    assert "bad.wav" in err
    manifest.write_text(json.dumps(bad) + "\n")
    with pytest.raises(sewkit.UserError, match="none of its 1 recordings could be read"):
        run("evaluate", manifest, "-m", saved)


def test_evaluate_says_which_column_is_missing_or_unknown(
    folder: Path, toy_folder: Path, voices: sewkit.Recognizer, saved: Path, manifest: Path
) -> None:
    for arguments, message in (
        (("-m", saved, "--label-column", "mood"), r"glad not among the model's 5 classes \(ann, bob"),
        (("-m", saved, "--label-column", "accent"), r"one.wav: nothing in column 'accent'; this row has"),
        (("-m", toy_folder, "--label-column", "mood"), "are for classifiers; .* has no classification head"),
        ((manifest, "-m", saved, "--confusion", folder / "c.png"), "draws one manifest, found 2"),
    ):
        with pytest.raises(sewkit.UserError, match=message):
            run("evaluate", manifest, *arguments)
    save_model(folder / "nameless", voices.loaded.model, labels=LABELS)
    with pytest.raises(sewkit.UserError, match="name it with --label-column"):
        run("evaluate", manifest, "-m", folder / "nameless")
    assert "accuracy 50.0%" in run("evaluate", manifest, "-m", folder / "nameless", "--label-column", "speaker")[0]

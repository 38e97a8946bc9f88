"""Manifests: plain and joined rows, and one-line errors that name file and line."""

import json

import numpy as np
import pytest
import soundfile

from sewkit.data.manifest import ManifestError, joined_row, load_utterance, read_manifest

ROW = {"audio": "a.wav", "text": "ONE", "speaker": "x", "duration": 0.5, "split": "train", "intent": "digit"}


def write(folder, *rows):
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_row_keeps_its_extra_columns_and_finds_its_audio_beside_the_manifest(tmp_path):
    (row,) = read_manifest(write(tmp_path, ROW))
    assert row.parts[0].audio == tmp_path / "a.wav"
    assert (row.text, row.speaker, row.duration, row.split) == ("ONE", "x", 0.5, "train")
    assert row.extra == {"intent": "digit"}


def test_splits_are_told_apart(tmp_path):
    path = write(tmp_path, ROW, {**ROW, "split": "test"}, "")
    assert [row.split for row in read_manifest(path)] == ["train", "test"]
    assert [row.split for row in read_manifest(path, split="test")] == ["test"]
    with pytest.raises(ManifestError, match="no utterance of split 'dev'"):
        read_manifest(path, split="dev")


def test_a_joined_row_is_its_recordings_with_silence_between(tmp_path):
    for name, level in (("a", 0.25), ("b", -0.25)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(160, level, dtype=np.float32), 16_000, subtype="FLOAT")
    columns = {name: ROW[name] for name in ("text", "speaker", "duration", "split")}
    path = write(tmp_path, joined_row([("a.wav", 0.0), ("b.wav", 0.1)], **columns))
    (row,) = read_manifest(path, root=tmp_path)
    samples = load_utterance(row)
    assert samples.shape == (160 + 1600 + 160,)
    assert np.allclose(samples[:160], 0.25, atol=1e-4)
    assert not samples[160:1760].any()
    assert np.allclose(samples[1760:], -0.25, atol=1e-4)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "expected one JSON object a line, found list"),
        ({key: value for key, value in ROW.items() if key != "text"}, "no text"),
        ({key: value for key, value in ROW.items() if key != "audio"}, "expected either audio or parts"),
        ({**ROW, "duration": "long"}, "duration must be seconds"),
        ({**ROW, "duration": float("nan")}, "duration must be seconds"),
        ({**ROW, "text": 5}, "text must be a string"),
        ({**ROW, "audio": None}, "each part needs audio"),
    ],
)
def test_an_unusable_line_is_named_in_one_line(tmp_path, line, problem):
    path = write(tmp_path, ROW, line)
    with pytest.raises(ManifestError, match=problem) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert "\n" not in str(caught.value)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.jsonl: cannot be read"):
        read_manifest(tmp_path / "none.jsonl")

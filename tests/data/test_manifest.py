"""Manifests: plain and joined rows, and one-line errors that name file and line."""

import json
import pickle
import tarfile

import numpy as np
import pytest
import soundfile
from sounds import write_audio, write_rows

from sewkit.audio import AudioError
from sewkit.data.manifest import Manifest, ManifestError, joined_row, load_crop, load_utterance, read_manifest

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
    with pytest.raises(ManifestError, match="no utterance of split 'dev'; its splits are test, train"):
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


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg"])
def test_a_segment_is_exactly_the_samples_of_its_recording(tmp_path, suffix):
    write_audio(tmp_path / f"a.{suffix}", 2.0)
    whole = load_utterance(read_manifest(write(tmp_path, {**ROW, "audio": f"a.{suffix}"}))[0])
    (row,) = read_manifest(write(tmp_path, {**ROW, "audio": f"a.{suffix}", "start": 0.3, "duration": 0.7}))
    assert np.array_equal(load_utterance(row), whole[4800:16_000])
    assert np.array_equal(load_crop(row, 100, 500), whole[4900:5400])


def test_a_segment_of_another_rate_has_its_place_and_length(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.repeat([0.1, 0.5, 0.1], 44_100).astype(np.float32), 44_100)
    (row,) = read_manifest(write(tmp_path, {**ROW, "start": 1.0, "duration": 1.0}))
    samples = load_utterance(row)
    assert samples.size == 16_000
    assert np.allclose(samples[100:-100], 0.5, atol=1e-3)


def test_one_channel_is_taken_alone(tmp_path):
    both = write_audio(tmp_path / "a.wav", 0.5, channels=2)
    (row,) = read_manifest(write(tmp_path, {**ROW, "channel": 1}))
    assert np.array_equal(load_utterance(row), both[:, 1])
    (row,) = read_manifest(write(tmp_path, {**ROW, "channel": 2}))
    with pytest.raises(AudioError, match="2 channels, no number 2"):
        load_utterance(row)


@pytest.mark.parametrize(("start", "duration"), [(0.5, 0.8), (3.0, 0.5)])
def test_a_segment_behind_the_end_is_an_error_not_a_shorter_result(tmp_path, start, duration):
    write_audio(tmp_path / "a.wav", 1.0)
    (row,) = read_manifest(write(tmp_path, {**ROW, "start": start, "duration": duration}))
    with pytest.raises(AudioError, match="it ends at"):
        load_utterance(row)


def test_a_recording_inside_a_tar_is_read_from_there(tmp_path):
    samples = [write_audio(tmp_path / f"{number}.flac", 0.5, seed=number) for number in range(2)]
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for number in range(2):
            tar.add(tmp_path / f"{number}.flac", arcname=f"{number}.flac")
    with tarfile.open(tmp_path / "all.tar") as tar:
        places = [{"offset": member.offset_data, "size": member.size} for member in tar]
    rows = read_manifest(write(tmp_path, *({**ROW, "audio": "all.tar", **place} for place in places)))
    for row, expected in zip(rows, samples, strict=True):
        assert np.array_equal(load_utterance(row), expected)
        assert np.array_equal(load_crop(row, 1000, 50), expected[1000:1050])
    (tmp_path / "all.tar").write_bytes((tmp_path / "all.tar").read_bytes()[: places[1]["offset"] + 100])
    with pytest.raises(AudioError, match=r"all\.tar@\d+: the archive ends inside"):
        load_utterance(rows[1])


def test_a_crop_of_a_joined_row_is_cut_from_the_whole(tmp_path):
    first, second = write_audio(tmp_path / "a.wav", 0.2), write_audio(tmp_path / "b.wav", 0.2, seed=1)
    row = joined_row([("a.wav", 0.0), ("b.wav", 0.1)], text="", duration=0.5)
    (row,) = read_manifest(write(tmp_path, row))
    whole = np.concatenate([first, np.zeros(1600, np.float32), second])
    assert np.array_equal(load_crop(row, 3000, 3000), whole[3000:6000])


def test_audio_without_labels_is_read_where_it_is_asked_for(tmp_path):
    path = write(tmp_path, {"audio": "a.wav", "duration": 1.0})
    (row,) = read_manifest(path, labelled=False)
    assert (row.text, row.speaker, row.split) == ("", "", "")
    with pytest.raises(ManifestError, match="no text"):
        read_manifest(path)


TRICKY = [
    {**ROW, "text": 'HE SAID "duration": 7', "note": "{[, {"},
    {**ROW, "duration": 2, "split": "dev"},
    {"parts": [{"audio": "a.wav", "start": 0.1, "duration": 9.5}], "text": "", "duration": 1.25, "split": "train"},
    {**ROW, "duration": 1e-3, "custom": {"duration": 99, "split": "test"}},
    {**ROW, "text": "\u00e9\n\\", "split": "tr\u00e4in"},
    {"audio": "a.wav", "text": "", "duration": 2.5, "custom": {"split": "train", "intent": 4}},
    {**ROW, "duration": 3.5, "intent": 4},
]


def test_a_manifest_for_training_holds_the_rows_of_the_file(tmp_path):
    path = write(tmp_path, *TRICKY[:3], "", "   ", *TRICKY[3:])
    rows, manifest = read_manifest(path), Manifest.open(path)
    assert list(manifest) == rows
    assert manifest.durations.tolist() == [row.duration for row in rows]
    assert manifest.column("text") == [row.text for row in rows]
    assert manifest.column("intent") == [row.extra.get("intent") for row in rows]
    assert list(Manifest.open(path, split="train")) == read_manifest(path, split="train")
    assert list(Manifest.open(path, intent=(4,))) == rows[-1:]
    assert list(manifest[1:3]) == rows[1:3]
    assert list(pickle.loads(pickle.dumps(manifest))) == rows


def test_numbers_in_columns_are_those_of_the_rows(tmp_path):
    """As texts too: classes are named by them."""
    path = write(tmp_path, {**ROW, "speaker": 1089, "intent": 4}, {**ROW, "speaker": 1089, "intent": 0.5, "nest": {}})
    manifest = Manifest.open(path)
    assert list(map(str, manifest.column("speaker"))) == [row.speaker for row in manifest] == ["1089", "1089"]
    assert list(map(str, manifest.column("intent"))) == ["4", "0.5"]


def test_only_a_newline_ends_a_row(tmp_path):
    path = write(tmp_path, json.dumps({**ROW, "text": "A\u2028B\u0085C"}, ensure_ascii=False), ROW)
    assert [row.text for row in read_manifest(path)] == ["A\u2028B\u0085C", "ONE"]
    assert list(Manifest.open(path)) == read_manifest(path)


def test_a_manifest_that_is_not_utf8_is_one_line(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(json.dumps({**ROW, "text": "\u00e9"}, ensure_ascii=False).encode("latin-1"))
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(path)


def test_manifests_are_joined(tmp_path):
    (tmp_path / "b").mkdir()
    first, second = Manifest.open(write(tmp_path, ROW, ROW)), Manifest.open(write(tmp_path / "b", {**ROW, "text": "B"}))
    both = Manifest.join([first, second])
    assert [row.parts[0].audio.parent.name for row in both] == [tmp_path.name, tmp_path.name, "b"]
    assert both.column("text") == ["ONE", "ONE", "B"]
    assert [row.text for row in both.select(np.array([2, 0]))] == ["B", "ONE"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{not json", "not JSON"),
        ({**ROW, "duration": None}, r"no duration; expected audio, text and duration \(seconds\)"),
        ({**ROW, "duration": -1}, "duration must be seconds"),
        ('{"audio": "a", "text": "", "duration": 1-2}', "not JSON"),
    ],
)
def test_a_manifest_for_training_names_the_line_without_a_duration(tmp_path, line, problem):
    with pytest.raises(ManifestError, match=rf"manifest\.jsonl:2: {problem}"):
        Manifest.open(write(tmp_path, ROW, line))


def test_an_empty_manifest_and_an_unknown_split_are_one_line(tmp_path):
    with pytest.raises(ManifestError, match="the file is empty"):
        Manifest.open(write(tmp_path))
    with pytest.raises(ManifestError, match="no utterance of split 'dev'"):
        Manifest.open(write(tmp_path, ROW), split="dev")


def test_a_large_manifest_is_found_line_by_line(tmp_path):
    generator = np.random.default_rng(0)
    durations = generator.uniform(1, 20, size=100_000).round(3)
    path = write_rows(
        tmp_path / "large.jsonl",
        ({"audio": f"{n}.flac", "text": "A" * (n % 50), "duration": float(d)} for n, d in enumerate(durations)),
    )
    manifest = Manifest.open(path)
    assert np.array_equal(manifest.durations, durations)
    for row in generator.integers(100_000, size=50).tolist():
        assert manifest[row].parts[0].audio.name == f"{row}.flac"
        assert len(manifest[row].text) == row % 50

"""Every layout becomes a manifest whose rows read exactly the samples that were there."""

import gzip
import json

import numpy as np
import pytest
from sounds import write_audio, write_rows

from sewkit.data.importers import FORMATS, Problem, detect_format, import_rows, write_manifest
from sewkit.data.importers.writing import to_letters
from sewkit.data.manifest import ManifestError, load_utterance, read_manifest


def imported(source, output, name=None, labelled=True, **options):
    """(rows, report) of an import in the format that is recognised, which must be `name`."""
    if name:
        assert detect_format(source) == name
    report = write_manifest(import_rows(source, name), output / "manifest.jsonl", **options)
    return read_manifest(output / "manifest.jsonl", labelled=labelled), report


def facts(row):
    return row.text, row.speaker, row.split, row.duration


def assert_sounds(row, samples):
    assert np.array_equal(load_utterance(row), samples)


def test_librispeech(tmp_path):
    chapter = tmp_path / "LibriSpeech" / "dev-clean" / "84" / "121123"
    sounds = [write_audio(chapter / f"84-121123-000{n}.flac", 0.5 + n / 4, seed=n) for n in range(2)]
    lines = ["84-121123-0000 GO", "84-121123-0001 DO YOU HEAR", "84-121123-0002 NOT THERE"]
    (chapter / "84-121123.trans.txt").write_text("\n".join(lines))
    rows, report = imported(tmp_path / "LibriSpeech", tmp_path, "librispeech")
    assert [facts(row) for row in rows] == [("GO", "84", "dev", 0.5), ("DO YOU HEAR", "84", "dev", 0.75)]
    assert rows[0].extra == {"id": "84-121123-0000", "subset": "dev-clean"}
    assert json.loads((tmp_path / "manifest.jsonl").read_text().splitlines()[0])["audio"].startswith("LibriSpeech/dev")
    (problem,) = report.problems
    assert "84-121123.trans.txt:3: no 84-121123-0002.flac" in problem
    for row, samples in zip(rows, sounds, strict=True):
        assert_sounds(row, samples)


@pytest.mark.parametrize(("suffix", "lines"), [("ltr", ["N O |", "D O | I T |"]), ("wrd", ["NO", "DO IT"]), (None, [])])
def test_fairseq(tmp_path, suffix, lines):
    sounds = [write_audio(tmp_path / "audio" / "x" / f"7-{n}.flac", 0.5, seed=n) for n in range(2)]
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "valid.tsv").write_text(f"{tmp_path / 'audio'}\nx/7-0.flac\t8000\nx/7-1.flac\t8000\n")
    if suffix:
        (folder / f"valid.{suffix}").write_text("\n".join(lines) + "\n")
    rows, report = imported(folder / "valid.tsv", tmp_path, "fairseq", labelled=suffix is not None)
    texts = ["NO", "DO IT"] if suffix else ["", ""]
    assert [facts(row) for row in rows] == [(text, "7", "dev", 0.5) for text in texts]
    assert not report.problems
    assert_sounds(rows[1], sounds[1])


def test_fairseq_refuses_texts_that_do_not_match(tmp_path):
    (tmp_path / "train.tsv").write_text("/audio\na.flac\t8000\n")
    (tmp_path / "train.ltr").write_text("A |\nB |\n")
    with pytest.raises(ManifestError, match=r"train\.ltr: 2 lines of text for the 1 recordings"):
        list(import_rows(tmp_path))


def test_nemo(tmp_path):
    samples = write_audio(tmp_path / "a.wav", 2.0)
    entries = [
        {"audio_filepath": "a.wav", "duration": 2.0, "text": "whole", "lang": "en"},
        {"audio_filepath": "a.wav", "duration": 0.5, "offset": 1.25, "text": "part"},
        {"audio_filepath": "a.wav", "duration": 1.5, "offset": 1.25, "text": "behind the end"},
        {"text": "nothing"},
    ]
    rows, report = imported(write_rows(tmp_path / "nemo.json", entries), tmp_path, "nemo")
    assert [facts(row) for row in rows] == [("whole", "", "train", 2.0), ("part", "", "train", 0.5)]
    assert rows[0].extra == {"lang": "en"}
    assert_sounds(rows[0], samples)
    assert_sounds(rows[1], samples[20_000:28_000])
    assert "2.00 s, no 1.50 s from there" in report.problems[0]
    assert report.problems[1].endswith("nemo.json:4: no audio_filepath")


def kaldi_folder(tmp_path, segments=None):
    sounds = [write_audio(tmp_path / f"{n}.wav", 1.0, seed=n, channels=1 + n) for n in range(2)]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "wav.scp").write_text(f"r0 {tmp_path / '0.wav'}\nr1 {tmp_path / '1.wav'}\n")
    names = ["r0", "r1"] if segments is None else [line.split()[0] for line in segments]
    (folder / "text").write_text("".join(f"{name} TEXT OF {name.upper()}\n" for name in names))
    (folder / "utt2spk").write_text("".join(f"{name} s{name}\n" for name in names))
    if segments:
        (folder / "segments").write_text("\n".join(segments))
    return folder, sounds


def test_kaldi(tmp_path):
    folder, sounds = kaldi_folder(tmp_path)
    rows, _ = imported(folder, tmp_path, "kaldi", split="test")
    assert [facts(row) for row in rows] == [(f"TEXT OF R{n}", f"sr{n}", "test", 1.0) for n in range(2)]
    assert_sounds(rows[0], sounds[0])


def test_kaldi_segments(tmp_path):
    folder, sounds = kaldi_folder(tmp_path, ["u0 r0 0.25 0.75", "u1 r1 0.5 -1 1", "u2 r9 0 1", "u3 r0 0.5 1.75"])
    rows, report = imported(folder, tmp_path, "kaldi")
    assert [facts(row) for row in rows] == [("TEXT OF U0", "su0", "train", 0.5), ("TEXT OF U1", "su1", "train", 0.5)]
    assert_sounds(rows[0], sounds[0][4000:12_000])
    assert_sounds(rows[1], sounds[1][8000:, 1])
    assert "no recording r9" in report.problems[0]
    assert "1.00 s, no 1.25 s from there" in report.problems[1]


def test_kaldi_refuses_pipes(tmp_path):
    (tmp_path / "wav.scp").write_text("r0 sph2pipe -f wav a.sph |\n")
    with pytest.raises(ManifestError, match=r"wav\.scp:1: r0 is the output of a command .*expected a file"):
        list(import_rows(tmp_path))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "semicolons"])
def test_a_folder_with_metadata(tmp_path, kind):
    folder = tmp_path / "set" / "validation"
    sounds = [write_audio(folder / "clips" / f"{n}.wav", 0.5, seed=n) for n in range(2)]
    entries = [
        {"file_name": "clips/0.wav", "transcription": "Well, no.", "client_id": "x"},
        {"file_name": "clips/1.wav", "transcription": "", "client_id": "y"},
    ]
    if kind == "jsonl":
        write_rows(folder / "metadata.jsonl", entries)
    else:
        mark = {"csv": ",", "tsv": "\t", "semicolons": ";"}[kind]
        lines = [entries[0].keys(), *(entry.values() for entry in entries)]
        quoted = (mark.join(f'"{value}"' for value in line) for line in lines)
        (folder / f"metadata.{'tsv' if kind == 'tsv' else 'csv'}").write_text("\n".join(quoted))
    rows, _ = imported(tmp_path / "set", tmp_path, "metadata", labelled=False)
    assert [facts(row) for row in rows] == [("Well, no.", "x", "dev", 0.5), ("", "y", "dev", 0.5)]
    assert_sounds(rows[1], sounds[1])
    with pytest.raises(ManifestError, match=":2: no text"):  # an empty cell is no claim that nobody speaks
        read_manifest(tmp_path / "manifest.jsonl")


def test_metadata_without_file_names_is_one_line(tmp_path):
    (tmp_path / "metadata.csv").write_text("path,text\na.wav,NO\n")
    with pytest.raises(ManifestError, match=r"metadata\.csv:1: expected a column file_name, found path, text"):
        list(import_rows(tmp_path))


def test_an_audiofolder_names_classes(tmp_path):
    for place in ("train/cat/a.wav", "train/dog/b.wav", "test/cat/c.wav", "test/d.wav"):
        write_audio(tmp_path / "set" / place, 0.25)
    report = write_manifest(import_rows(tmp_path / "set", "audiofolder"), tmp_path / "m.jsonl")
    rows = read_manifest(tmp_path / "m.jsonl", labelled=False)
    assert [(row.split, row.extra["label"]) for row in rows] == [("test", "cat"), ("train", "cat"), ("train", "dog")]
    assert "d.wav: it lies in no folder that names its class" in report.problems[0]


def test_a_plain_folder_is_unlabelled_and_bad_files_are_named(tmp_path):
    samples = write_audio(tmp_path / "set" / "deep" / "a.flac", 0.5)
    (tmp_path / "set" / "bad.wav").write_bytes(b"this is no audio")
    (tmp_path / "set" / "notes.txt").write_text("not audio, and not meant to be")
    rows, report = imported(tmp_path / "set", tmp_path, "folder", labelled=False)
    assert [facts(row) for row in rows] == [("", "", "train", 0.5)]
    assert_sounds(rows[0], samples)
    (problem,) = report.problems
    assert "bad.wav: this is text, not audio" in problem


def lhotse_cuts(tmp_path):
    lhotse = pytest.importorskip("lhotse")
    cuts, sounds = [], []
    for number in range(2):
        path = tmp_path / f"{number}.wav"
        sounds.append(write_audio(path, 1.0, seed=number))
        cut = lhotse.Recording.from_file(path).to_cut()
        label = lhotse.SupervisionSegment(f"s{number}", cut.recording.id, 0.0, 1.0, text=f"T{number}", speaker="x")
        cut.supervisions = [label]
        cuts.append(cut)
    cuts[1] = cuts[1].truncate(offset=0.25, duration=0.5)
    return lhotse.CutSet.from_cuts(cuts), [sounds[0], sounds[1][4000:12_000]]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_lhotse_cuts(tmp_path, suffix):
    cuts, sounds = lhotse_cuts(tmp_path)
    cuts.to_file(tmp_path / f"cuts{suffix}")
    rows, report = imported(tmp_path / f"cuts{suffix}", tmp_path, "lhotse")
    assert [facts(row) for row in rows] == [("T0", "x", "train", 1.0), ("T1", "x", "train", 0.5)]
    assert not report.problems
    for row, samples in zip(rows, sounds, strict=True):
        assert_sounds(row, samples)


def test_lhotse_cuts_that_are_not_one_recording_are_named(tmp_path):
    cuts, _ = lhotse_cuts(tmp_path)
    first, second = cuts
    entries = [first.mix(second), first.perturb_speed(1.1), first]
    path = tmp_path / "cuts.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(entry.to_dict()) + "\n" for entry in entries)
    found = list(import_rows(path))
    assert [isinstance(entry, Problem) for entry in found] == [True, True, False]
    assert "MixedCut" in str(found[0])


@pytest.mark.parametrize("kind", ["flac", "wav"])
def test_shar_is_read_from_its_tar_in_place(tmp_path, kind):
    cuts, sounds = lhotse_cuts(tmp_path)
    (tmp_path / "shar").mkdir()
    cuts.to_shar(tmp_path / "shar", fields={"recording": kind}, shard_size=1)
    before = sorted(path.name for path in (tmp_path / "shar").iterdir())
    rows, report = imported(tmp_path / "shar", tmp_path, "shar")
    assert [facts(row) for row in rows] == [("T0", "x", "train", 1.0), ("T1", "x", "train", 0.5)]
    assert not report.problems
    for row, samples in zip(rows, sounds, strict=True):
        assert_sounds(row, samples)
    assert sorted(path.name for path in (tmp_path / "shar").iterdir()) == before


@pytest.mark.parametrize(
    ("text", "letters", "removed"),
    [
        ("Well, “no” – don’t!", "WELL NO DON'T", [",", "“", "”", "!"]),
        ("half-time $5 é", "HALF TIME 5 É", ["$"]),
        ("PLAIN TEXT", "PLAIN TEXT", []),
    ],
)
def test_letters_drop_punctuation_and_keep_what_only_a_person_can_read(text, letters, removed):
    assert to_letters(text) == (letters, removed)


def test_what_letters_changed_is_counted(tmp_path):
    write_audio(tmp_path / "a.wav", 0.5)
    entries = [{"audio": tmp_path / "a.wav", "text": text} for text in ("OH", "oh", "Oh, no...")]
    report = write_manifest(entries, tmp_path / "m.jsonl", letters=True)
    assert [row.text for row in read_manifest(tmp_path / "m.jsonl")] == ["OH", "OH", "OH NO"]
    assert (report.num_changed_texts, report.removed) == (2, {",": 1, ".": 3})


def test_nothing_usable_leaves_no_manifest_behind(tmp_path):
    with pytest.raises(ManifestError, match=r"nothing to import: 1 entries, .*; the first: .*none\.wav"):
        write_manifest([{"audio": tmp_path / "none.wav"}], tmp_path / "m.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_cannot_be_told_is_one_line(tmp_path):
    with pytest.raises(ManifestError, match="no such file or folder"):
        import_rows(tmp_path / "none")
    with pytest.raises(ManifestError, match=f"name one of {', '.join(FORMATS)}"):
        import_rows(tmp_path)
    with pytest.raises(ManifestError, match="format 'hdf5' is not known"):
        import_rows(tmp_path, "hdf5")

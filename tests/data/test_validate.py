"""Each rule of validation catches its case and nothing else."""

import json

import numpy as np
import pytest
from sounds import write_audio, write_rows, write_set

from sewkit.config import PUBLISHED
from sewkit.data.manifest import Manifest, read_manifest
from sewkit.data.validate import RULES, Requirements, select, validate
from sewkit.text import Alphabet

NEEDS = Requirements.of_model(PUBLISHED["sew-tiny"], Alphabet.english(), max_seconds=20.0)


def row(**changes):
    return {"audio": "a.flac", "text": "ONE", "duration": 1.0, "split": "train", **changes}


def broken_rules(tmp_path, *rows, needs=NEEDS, **options):
    path = write_rows(tmp_path / "manifest.jsonl", [row(), *rows])
    kept, report = validate(Manifest.open(path, labelled=False), needs, **options)
    assert kept[0] == 0
    assert report.num_kept == len(kept) == 1 + len(rows) - sum(report.counts.values())
    return report


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"duration": 0}, "empty"),
        ({"duration": 0.04}, "too short"),  # two frames are needed: 400 + 320 samples
        ({"duration": 21}, "too long"),
        ({"text": None}, "no text"),
        ({"text": "SEÑOR 2"}, "characters"),
        ({"text": "A" * 30}, "text too long"),  # 49 frames, 59 needed
        ({"text": "AB" * 25}, "text too long"),  # 49 frames, 50 needed
    ],
)
def test_each_rule_of_the_columns(tmp_path, changes, rule):
    report = broken_rules(tmp_path, row(audio="bad.flac", **changes))
    assert report.counts == {rule: 1}
    assert "bad.flac" in report.examples[rule][0]
    assert "\n" not in report.examples[rule][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"duration": 0.045},
        {"duration": 20.0},
        {"text": "one"},
        {"text": ""},
        {"text": "A" * 25},
        {"text": "AB" * 24},
        {"text": "IT'S  NO"},
    ],
)
def test_what_just_fits_is_kept(tmp_path, changes):
    assert not broken_rules(tmp_path, row(**{"text": "", **changes})).counts


def test_text_plays_no_part_without_an_alphabet(tmp_path):
    needs = Requirements.of_model(PUBLISHED["sew-tiny"])
    assert not broken_rules(tmp_path, row(text=None), row(text="Ñ" * 99), needs=needs).counts


def test_reading_the_audio_finds_what_the_columns_hide(tmp_path):
    for name in ("a", "silent", "cut", "longer"):
        write_audio(tmp_path / f"{name}.flac", 1.0)
    write_audio(tmp_path / "silent.wav", 1.0)
    (tmp_path / "silent.wav").write_bytes((tmp_path / "silent.wav").read_bytes()[:44] + bytes(32_000))
    (tmp_path / "cut.flac").write_bytes((tmp_path / "cut.flac").read_bytes()[:9000])
    report = broken_rules(
        tmp_path,
        row(audio="silent.wav"),
        row(audio="cut.flac"),
        row(audio="nowhere.flac"),
        row(audio="longer.flac", duration=2.0),
        {"text": "ONE", "duration": 1.0},
        read_audio=True,
    )
    assert report.counts == {"empty": 1, "unreadable": 2, "wrong duration": 1, "bad row": 1}
    assert set(report.counts) <= set(RULES)
    assert ":6: expected either audio or parts" in report.examples["bad row"][0]


def test_rows_in_a_list_are_checked_like_a_manifest_and_selected(tmp_path):
    path = write_set(tmp_path, [0.5, 0.03, 0.5])
    for rows in (read_manifest(path), Manifest.open(path)):
        kept, report = validate(rows, NEEDS)
        assert kept.tolist() == [0, 2]
        assert [found.duration for found in select(rows, kept)] == [0.5, 0.5]
        assert report.counts == {"too short": 1}


def test_the_report_counts_all_and_names_a_few(tmp_path):
    report = broken_rules(tmp_path, *(row(duration=30 + number) for number in range(10)))
    assert report.counts == {"too long": 10}
    assert len(report.examples["too long"]) == 3
    assert str(report).startswith("1 of 11 rows can be used")
    assert json.loads(json.dumps(report.to_dict()))["num_rows"] == 11


def test_everything_infeasible_is_a_report_not_a_crash(tmp_path):
    path = write_rows(tmp_path / "m.jsonl", [row(text="A" * 99)] * 5)
    kept, report = validate(Manifest.open(path), NEEDS)
    assert kept.size == 0
    assert kept.dtype == np.int64
    assert report.counts == {"text too long": 5}

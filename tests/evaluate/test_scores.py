"""Where the errors are: confusions, groups by speaker and length, notes; and back from JSON."""

import json

import pytest
from toy_evaluations import evaluation

from sewkit.errors import UserError
from sewkit.evaluate.evaluation import Evaluation, read_evaluation

PAIRS = [("GO ON", "GO OFF"), ("ON", "OFF"), ("ON GO ON", "ON ON"), ("", "YES"), ("GO", "GO")]


def test_confusions_are_counted_with_how_often_the_word_occurs() -> None:
    found = [(one.reference, one.hypothesis, one.count, one.of) for one in evaluation(PAIRS).scores.confusions]
    assert found == [("ON", "OFF", 2, 4), ("GO", None, 1, 3), (None, "YES", 1, 0)]


def test_groups_of_speakers_hold_all_their_words_worst_first() -> None:
    groups = evaluation(PAIRS, speakers=["ann", "bob", "ann", "bob", ""]).scores.by_speaker()
    assert [(one.name, one.num_utterances, one.num_words, one.errors, one.wer) for one in groups] == [
        ("bob", 2, 1, 2, 2.0),
        ("ann", 2, 5, 2, 0.4),
    ]


def test_lengths_are_grouped_by_seconds_and_by_words() -> None:
    scores = evaluation(PAIRS, seconds=[0.9, 1.0, 4.99, 5.0, 61.0]).scores
    by_seconds = [(one.name, one.num_utterances) for one in scores.by_seconds()]
    assert by_seconds == [("0 to 1 s", 1), ("1 to 2 s", 1), ("2 to 5 s", 1), ("5 to 10 s", 1), ("60 s and more", 1)]
    by_words = [(one.name, one.num_utterances) for one in scores.by_words()]
    assert by_words == [("0 words", 1), ("1 word", 2), ("2 to 3 words", 2)]


def test_the_worst_have_most_errors_and_right_ones_are_not_among_them() -> None:
    scores = evaluation([("A B C D", "A B C X"), ("A", "B"), ("A", "A"), ("A B C", "X Y C")]).scores
    assert scores.worst(10) == [3, 1, 0]
    assert scores.worst(1) == [3]


def test_notes_name_empty_references_missing_recordings_and_other_case() -> None:
    notes = " ".join(evaluation(PAIRS, missing=[0]).notes())
    assert "1 of 5 recordings could not be read and are in no figure." in notes
    assert "1 references are empty: all 1 words written there are insertions." in notes
    assert "case" not in notes
    assert "differ in case" in " ".join(evaluation([("Yes, no.", "YES NO")]).notes())
    assert "differ in case" not in " ".join(evaluation([("Yes, no.", "YES NO")], normalizer="librispeech").notes())
    assert "removed the digits of 1 references" in " ".join(
        evaluation([("A 2", "A")], normalizer="librispeech").notes()
    )


def test_the_normalizer_goes_over_both_texts() -> None:
    found = evaluation([("Twenty-one, please!", "21 please")], normalizer="whisper-english")
    assert (found.wer.rate, found.wer.num_units) == (0.0, 2)
    assert found.to_dict()["normalizer"] == "whisper-english"


def test_references_without_a_word_are_one_line() -> None:
    with pytest.raises(UserError, match=r"toy\.jsonl: no word in the references after normalizer 'librispeech'"):
        evaluation([("123", "A")], normalizer="librispeech").wer  # noqa: B018


def test_an_evaluation_comes_back_from_its_json(tmp_path) -> None:
    found = evaluation(PAIRS, missing=[2], speakers=list("abcde"))
    facts = json.loads(json.dumps(found.to_dict()))
    assert Evaluation.from_dict(facts, "x") == found
    assert facts["wer"]["rate"] == found.wer.rate
    assert (facts["speed"]["real_time_factor"], facts["speed"]["times_real_time"]) == (1 / 8, 8.0)
    assert [one["errors"] for one in facts["utterances"]] == [1, 1, 1, 0]
    for content, message in (
        ("{", "not JSON"),
        ("[]", "expected a report.json that sewkit evaluate wrote .*, found 'list'"),
        ('{"format": "other"}', "found 'other'"),
        ('{"format": "sewkit evaluation 1"}', "is incomplete"),
    ):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(UserError, match=message):
            read_evaluation(tmp_path / "report.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_evaluation(tmp_path / "nowhere.json")

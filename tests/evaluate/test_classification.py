"""Accuracy and its interval, macro F1, recalls, the confusion matrix as numbers and as a picture."""

import builtins
from pathlib import Path

import numpy as np
import pytest

from sewkit.data.manifest import ManifestError, Part, Utterance
from sewkit.errors import MissingExtraError, UserError
from sewkit.evaluate.classification import Confusion, class_ids, label_of, share_with_interval

LABELS = ("cat", "dog", "fox")
REFERENCES = [0] * 10 + [1] * 6
ANSWERS = [0] * 8 + [1, 2] + [1] * 3 + [0] * 3


@pytest.fixture
def confusion() -> Confusion:
    return Confusion.count(LABELS, REFERENCES, ANSWERS)


def row(**columns: object) -> Utterance:
    return Utterance(parts=(Part(audio=Path("a.wav")),), text="ONE", speaker="x", duration=1, split="test", **columns)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # the examples of Newcombe 1998
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),  # the mirror image of none of 20
    ],
)
def test_intervals_are_wilsons(right: int, total: int, low: float, high: float) -> None:
    share = share_with_interval(right, total)
    assert (share.low, share.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert share.rate == right / total


@pytest.mark.parametrize("true_rate", [0.5, 0.9, 0.98])
def test_the_interval_covers_the_true_rate_about_as_often_as_it_says(true_rate: float) -> None:
    drawn = np.random.default_rng(0).binomial(40, true_rate, size=2000)
    shares = [share_with_interval(int(right), 40) for right in drawn]
    # 95 % on average over rates; at one rate of 40 recordings 91 to 99 %, as counts are whole numbers
    assert 0.91 < np.mean([share.low <= true_rate <= share.high for share in shares]) < 0.99


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="a share of nothing"):
        share_with_interval(0, 0)


def test_rows_are_true_classes_and_columns_answers(confusion: Confusion) -> None:
    assert confusion.counts.tolist() == [[8, 1, 1], [3, 3, 0], [0, 0, 0]]
    assert confusion.accuracy == share_with_interval(11, 16)
    assert confusion.recalls == [share_with_interval(8, 10), share_with_interval(3, 6), None]


def test_macro_f1_is_the_mean_over_classes_that_occur_on_either_side(confusion: Confusion) -> None:
    by_hand = (2 * 8 / (10 + 11) + 2 * 3 / (6 + 4) + 0) / 3
    assert confusion.macro_f1 == pytest.approx(by_hand)
    unheard = Confusion.count((*LABELS, "owl"), REFERENCES, ANSWERS)
    assert unheard.macro_f1 == pytest.approx(by_hand)


def test_the_table_has_a_line_for_each_class_that_was_there(confusion: Confusion) -> None:
    cat, dog = confusion.table().splitlines()
    assert " ".join(cat.split()) == "cat 80.0% [49.0%, 94.3%] 8 of 10, 1 taken for dog"
    assert " ".join(dog.split()) == "dog 50.0% [18.8%, 81.2%] 3 of 6, 3 taken for cat"
    assert str(confusion) == "accuracy 68.8% [44.4%, 85.8%] of 16 recordings, macro F1 0.454"


def test_json_has_plain_types(confusion: Confusion) -> None:
    facts = confusion.to_dict()
    assert facts["confusion"] == [[8, 1, 1], [3, 3, 0], [0, 0, 0]]
    assert facts["labels"] == ["cat", "dog", "fox"]
    assert facts["recalls"][0]["rate"] == 0.8
    assert facts["recalls"][2] is None
    assert type(facts["accuracy"]["right"]) is int


def test_names_that_the_model_does_not_know_are_listed() -> None:
    assert class_ids(LABELS, ["fox", "cat"]) == [2, 0]
    with pytest.raises(UserError, match=r"cow, owl not among the model's 3 classes \(cat, dog, fox\): name another"):
        class_ids(LABELS, ["owl", "cat", "cow", "owl"])


def test_lengths_must_agree_and_something_must_be_there() -> None:
    with pytest.raises(ValueError, match="2 references but 1 answers"):
        Confusion.count(LABELS, [0, 1], [0])
    with pytest.raises(ValueError, match="no recording"):
        Confusion.count(LABELS, [], [])


def test_the_class_of_a_row_is_a_column_as_text() -> None:
    assert label_of(row(), "speaker") == "x"
    assert label_of(row(extra={"digit": 7}), "digit") == "7"
    with pytest.raises(
        ManifestError, match=r"a.wav: nothing in column 'mood'; this row has text, speaker, split, digit"
    ):
        label_of(row(extra={"digit": 7, "mood": None}), "mood")
    with pytest.raises(ManifestError, match="nothing in column 'accent'"):
        label_of(row(extra={"accent": ""}), "accent")


@pytest.mark.parametrize("num_classes", [2, 40, 41])
def test_the_picture_is_written_whole(num_classes: int, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    labels = ("$a_b$ " + "long " * 9, *(f"class {index}" for index in range(1, num_classes)))
    ids = list(range(num_classes))
    Confusion.count(labels, ids, ids[::-1]).draw(tmp_path / "confusion.png")
    pixels = image.imread(tmp_path / "confusion.png")
    assert min(pixels.shape[:2]) >= 480
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.png"]
    with pytest.raises(UserError, match="expected a folder that can be written, found a file"):
        Confusion.count(labels, ids, ids).draw(tmp_path / "confusion.png" / "confusion.png")


def test_without_matplotlib_one_line_names_the_extra(
    confusion: Confusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = builtins.__import__

    def without(name: str, *arguments: object, **keywords: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return plain(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'sewkit\[plot\]'"):
        confusion.draw(tmp_path / "confusion.png")

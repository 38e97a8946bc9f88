"""The picture and the model card of a run hold what its log holds, and nothing else."""

import io
import json
import sys

import pytest
from rich.console import Console

from sewkit.errors import UserError
from sewkit.testing import TOYS
from sewkit.train.card import Card, Data, last_results, write_card
from sewkit.train.report import PANELS, draw_report, metrics_of, stage_starts, write_report

LINES = [
    {"stage": "a", "update": 5, "step": 5, "learning_rate": 1e-3, "loss": 3.0, "grad_norm": 1.0, "accuracy": 0.1},
    {"stage": "a", "update": 10, "step": 10, "learning_rate": 1e-3, "loss": None, "grad_norm": None, "accuracy": 0.2},
    {"stage": "a", "update": 10, "step": 10, "wer_dev": 0.9, "alarms": ["3 updates were left out"]},
    {"stage": "b", "update": 5, "step": 15, "learning_rate": 1e-4, "loss": 1.0, "grad_norm": 2.0, "accuracy": 0.3},
    {"stage": "b", "update": 10, "step": 20, "wer_dev": 0.25, "wer_other": 0.5},
]


@pytest.fixture
def run(tmp_path):
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def test_panels_are_those_of_the_metrics_in_the_log():
    names = {panel.title: metrics_of(LINES, panel) for panel in PANELS}
    assert {title: found for title, found in names.items() if found} == {
        "loss": ["loss"],
        "accuracy": ["accuracy"],
        "error rate": ["wer_dev", "wer_other"],
        "learning rate": ["learning_rate"],
        "gradient norm": ["grad_norm"],
    }
    assert stage_starts(LINES) == [(0, "a"), (10, "b")]


def test_the_report_is_a_picture_and_a_torn_last_line_does_no_harm(run):
    pytest.importorskip("matplotlib")
    with (run / "log.jsonl").open("a") as file:
        file.write('{"stage": "b", "upd')
    assert write_report(run)
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in run.iterdir()} == {"log.jsonl", "report.png"}


def test_without_matplotlib_one_line_says_how_to_get_it(run, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    console = Console(file=io.StringIO())
    assert not write_report(run, console)
    (line,) = console.file.getvalue().splitlines()
    assert "pip install 'sewkit[plot]'" in line
    assert not (run / "report.png").exists()


def test_an_empty_log_gives_no_picture(tmp_path):
    with pytest.raises(UserError, match="no lines to draw"):
        draw_report(tmp_path / "log.jsonl", tmp_path / "report.png")


def test_the_card_names_the_last_dev_figures_the_data_and_the_recipe(run):
    card = Card(
        name="toy",
        config=TOYS["sew"],
        num_parameters=1_234_567,
        data=(Data(name="train.jsonl (train)", hours=12.5), Data(name="more|data")),
        recipe="seed: 0\n",
        results=last_results(run),
    )
    write_card(run, card)
    text = (run / "README.md").read_text()
    for fact in (
        "1.23 M",
        "| train.jsonl (train) | 12.50 |",
        "| more\\|data | unknown |",
        "| `wer_dev` | 0.25 | 20 |",
        "| `wer_other` | 0.5 | 20 |",
        "dev sets",
        "```yaml\nseed: 0\n```",
        'transcribe("speech.wav")',
        "random weights",
    ):
        assert fact in text
    assert "0.9" not in text  # the figure before the last
    assert "accuracy" not in text  # of training


@pytest.mark.parametrize(
    ("changes", "use"),
    [({"vocab_size": None}, "encode("), ({"vocab_size": None, "num_labels": 3}, "classify(")],
)
def test_the_card_says_how_each_kind_of_model_is_used(changes, use):
    config = TOYS["sew"].replace(**changes)
    card = Card(name="toy", config=config, num_parameters=10, data=(), recipe="")
    assert use in card.to_markdown()
    assert "Nothing was measured" in card.to_markdown()

"""The facts before a run: they are right, and finding them changes nothing."""

import io

import pytest
import torch
from rich.console import Console
from toy_stage import toy_stage

from sewkit.compute import macs
from sewkit.data.batch import make_batch
from sewkit.objectives.ctc import CTC
from sewkit.testing import TOYS, synthetic_speech, toy_model
from sewkit.text import Alphabet
from sewkit.train.loop import Settings, train
from sewkit.train.plan import first_rows, make_plan, measure, print_plan

ALPHABET = Alphabet.english()


def batches(update):
    sounds = [synthetic_speech(samples, update) for samples in (16_000, 8_000)]
    return [make_batch(sounds, ["YES", "NO"], ALPHABET)] * 2


def ctc_stage(num_updates=10, **changes):
    model = toy_model("sew").train()
    changes = {"trainable": lambda update: [p for n, p in model.named_parameters() if "features" not in n], **changes}
    return toy_stage(CTC(model), num_updates, **{"batches": batches, "name": "ctc", **changes})


def test_the_plan_counts_parameters_sound_and_epochs(tmp_path):
    stage = ctc_stage()
    model = stage.objective.model
    plan = make_plan([stage], Settings(output=tmp_path), data_hours=3 / 3600)
    groups = {group.name: group for group in plan.groups}
    assert sum(group.num_parameters for group in plan.groups) == model.num_parameters()
    assert groups["extractor"].num_moving == 0
    assert groups["heads"].num_moving == groups["heads"].num_parameters == 33 * 32  # a bias and 32 weights a letter
    assert plan.macs_per_second == sum(macs(model.config, 160_000).values()) // 10
    (facts,) = plan.stages
    assert facts.audio_seconds == pytest.approx(3.0)
    assert facts.micro_batches == 2
    assert facts.epochs == pytest.approx(10.0)
    trained = sum(group.num_moving for group in plan.groups)
    assert facts.memory["weights"] == 4 * model.num_parameters()
    assert facts.memory["gradients"] + facts.memory["Adam's moments"] == 12 * trained
    assert 0 < plan.seconds == 10 * facts.seconds_per_update


def test_the_measured_activations_grow_with_the_batch_and_shrink_with_checkpointing(tmp_path):
    config = TOYS["w2v2"].replace(num_layers=8)
    kept = []
    for rows, again in ((1, False), (3, False), (3, True)):
        objective = CTC(toy_model(config))
        objective.model.encoder.checkpoint_layers = again
        stage = toy_stage(objective)
        batch = make_batch([synthetic_speech(16_000)] * rows, ["YES"] * rows, ALPHABET)
        kept.append(measure(stage, batch, Settings(output=tmp_path))[1])
    assert kept[1] == pytest.approx(3 * kept[0], rel=0.05)
    assert kept[2] < 0.9 * kept[1]


def test_a_run_is_the_same_with_and_without_a_plan(tmp_path):
    states = []
    for planned in (False, True):
        stage = ctc_stage(3)
        settings = Settings(output=tmp_path / str(planned))
        if planned:
            make_plan([stage], settings)
        states.append(train([stage], settings).model)
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_first_rows_keep_what_belongs_to_them():
    batch = batches(0)[0]
    part = first_rows(batch, 1.5)
    assert len(part) == 1
    assert part.labels.tolist() == ALPHABET.encode("YES")
    assert len(first_rows(batch, 0.1)) == 1
    assert len(first_rows(batch, 100)) == 2


def test_the_plan_is_printed_as_tables(tmp_path):
    console = Console(file=io.StringIO(), width=100)
    print_plan(make_plan([ctc_stage(), ctc_stage(name="second")], Settings(output=tmp_path)), console)
    text = console.file.getvalue()
    for fact in ("extractor", "second", "sound in an update", "Adam's moments", "expected time: 0:00:0", "MMAC"):
        assert fact in text


def test_many_stages_are_cut_into_tables_that_fit(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    print_plan(make_plan([ctc_stage(name=f"stage-{i}") for i in range(5)], Settings(output=tmp_path)), console)
    text = console.file.getvalue()
    assert all(f"stage-{i}" in text for i in range(5))
    assert text.count("sound in an update") == 3
    assert "…" not in text

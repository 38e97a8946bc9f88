"""Kills, signals, damaged files, full disks, several processes: whatever happens, a run ends with the same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_stage import Squares, ToyModel, freeze_at_first, read_lines, toy_stage

from sewkit.train.loop import Settings, train
from sewkit.train.state import Checkpoints

SCRIPT = Path(__file__).parent / "toy_stage.py"
EVERY_UPDATE = {"log_every": 1, "checkpoint_seconds": 0.0}


def start_script(**options):
    command = [sys.executable, str(SCRIPT), json.dumps(options, default=str)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def last_state(folder):
    state = Checkpoints(folder).load()
    assert state is not None
    return state


def assert_equal_weights(one, other):
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Weights and log of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    train([toy_stage(num_updates=8)], Settings(output=folder, average_decay=0.9, **EVERY_UPDATE))
    return folder


@pytest.mark.parametrize("moment", ["half written", "before the rename", "after the rename", "in an update"])
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(tmp_path, whole, moment):
    process = start_script(output=tmp_path, num_updates=8, average_decay=0.9, kill=moment, kill_at=4, **EVERY_UPDATE)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert last_state(tmp_path).update == (4 if moment in ("after the rename", "in an update") else 3)
    train([toy_stage(num_updates=8)], Settings(output=tmp_path, average_decay=0.9, **EVERY_UPDATE), resume=True)
    assert_equal_weights(last_state(whole).model, last_state(tmp_path).model)
    assert_equal_weights(last_state(whole).average, last_state(tmp_path).average)
    assert [(line["step"], line["loss"]) for line in read_lines(tmp_path)] == [
        (line["step"], line["loss"]) for line in read_lines(whole)
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_lines_of_updates_that_are_repeated_and_torn_ones_are_cut_off(tmp_path, whole):
    train([toy_stage(num_updates=8)], Settings(output=tmp_path, stop_after=3, average_decay=0.9, **EVERY_UPDATE))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"stage": "toy", "update": 4, "step": 4, "loss": 9.0}\n{"stage": "toy", "upd')
    train([toy_stage(num_updates=8)], Settings(output=tmp_path, average_decay=0.9, **EVERY_UPDATE), resume=True)
    assert [line["loss"] for line in read_lines(tmp_path)] == [line["loss"] for line in read_lines(whole)]


def test_sigterm_saves_leaves_with_75_and_resumes_to_the_same_weights(tmp_path, whole):
    process = start_script(output=tmp_path, num_updates=8, average_decay=0.9, sleep=0.05, log_every=1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 75, errors
    assert errors.splitlines()[-1].startswith("sewkit: stopped by a signal after update ")
    assert 0 < last_state(tmp_path).update < 8
    train([toy_stage(num_updates=8)], Settings(output=tmp_path, average_decay=0.9), resume=True)
    assert_equal_weights(last_state(whole).model, last_state(tmp_path).model)


def test_a_damaged_newest_state_costs_its_updates_only(tmp_path, whole):
    settings = Settings(output=tmp_path, stop_after=5, average_decay=0.9, **EVERY_UPDATE)
    train([toy_stage(num_updates=8)], settings)
    newest = Checkpoints(tmp_path).paths()[-1]
    newest.write_bytes(newest.read_bytes()[:-3000])
    with pytest.warns(UserWarning, match=r"00005\.pt: not a readable .*going on from state-00-00000004\.pt"):
        train([toy_stage(num_updates=8)], Settings(output=tmp_path, average_decay=0.9), resume=True)
    assert_equal_weights(last_state(whole).model, last_state(tmp_path).model)


def test_a_full_disk_leaves_the_last_good_state_and_the_run_goes_on(tmp_path, whole):
    """A limit on file sizes makes the system refuse writes in the middle of a state, as a full disk does."""
    process = start_script(output=tmp_path, num_updates=8, average_decay=0.9, full_at=3, **EVERY_UPDATE)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "the state could not be written (File too large); the last good one is state-00-00000003.pt" in errors
    assert "log.jsonl: a line could not be written (File too large)" in errors
    assert "toy 8  " in errors  # the last update
    assert [path.name for path in Checkpoints(tmp_path).paths()] == ["state-00-00000002.pt", "state-00-00000003.pt"]
    assert not list(tmp_path.glob("*.partial"))
    lines = read_lines(tmp_path)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    train([toy_stage(num_updates=8)], Settings(output=tmp_path, average_decay=0.9), resume=True)
    assert_equal_weights(last_state(whole).model, last_state(tmp_path).model)


def run_ranks(folder, world=2, **options):
    folder.mkdir(exist_ok=True)
    meeting = folder / f"meeting-{time.monotonic_ns()}"
    processes = [
        start_script(output=folder, rank=rank, world=world, meeting=meeting, **options) for rank in range(world)
    ]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors


def test_two_processes_have_the_loss_curve_and_weights_of_one_with_layers_dropped_and_frozen(tmp_path):
    """Stopped and resumed on the way; the model is frozen in the first updates, so DDP is set up twice."""
    objective = Squares(ToyModel(dropout=0.0, layerdrop=0.5))
    stage = toy_stage(objective, trainable=freeze_at_first(objective, 3))
    train([stage], Settings(output=tmp_path / "one", log_every=1, average_decay=0.9))
    two = {"num_updates": 12, "dropout": 0.0, "layerdrop": 0.5, "freeze": 3, "log_every": 1, "average_decay": 0.9}
    run_ranks(tmp_path / "two", stop_after=2, **two)
    start, frozen = Squares(ToyModel()), last_state(tmp_path / "two")
    assert_equal_weights(start.model.state_dict(), frozen.model)
    assert not torch.equal(start.head.weight, frozen.heads["head.weight"])
    run_ranks(tmp_path / "two", resume=True, **two)
    one, both = (last_state(tmp_path / name) for name in ("one", "two"))
    # sums in another order: 1e-7 of each gradient, through Adam's division a little more
    assert all(torch.allclose(value, both.model[name], atol=1e-5) for name, value in one.model.items())
    assert all(torch.allclose(value, both.average[name], atol=1e-5) for name, value in one.average.items())
    assert not any(torch.equal(value, both.model[name]) for name, value in start.model.state_dict().items())
    curves = [[(line["loss"], line["squares"]) for line in read_lines(tmp_path / name)] for name in ("one", "two")]
    assert torch.allclose(*(torch.tensor(curve) for curve in curves), rtol=1e-4)

"""Checkpoints: whole or not at all, pruned, and with a way out where one is damaged."""

import warnings

import pytest
import torch
from toy_stage import Squares, ToyModel, toy_stage

from sewkit.errors import UserError
from sewkit.train.loop import Settings, train
from sewkit.train.state import Checkpoints, TrainState, load_state, save_state


def state_of(stage, update):
    return TrainState(stage=stage, update=update, model={"w": torch.full((3000,), float(update))})


def damage(path):
    path.write_bytes(path.read_bytes()[:2000])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_state_comes_back_as_it_was(tmp_path):
    state = TrainState(
        stage=1,
        update=7,
        model={"w": torch.randn(3), "count": torch.tensor(4)},
        average={"w": torch.randn(3)},
        num_averaged=5,
        heads={"head.weight": torch.randn(2, 2)},
        optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.98)}]},
        skipped=2,
    )
    save_state(state, tmp_path / "state.pt")
    assert str(load_state(tmp_path / "state.pt")) == str(state)


def test_a_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(state_of(0, 1), path)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_state(state_of(0, 2), path)
    assert load_state(path).update == 1
    assert names(tmp_path) == ["state.pt"]


def test_the_newest_states_stay_over_stages_and_leftovers_of_kills_go(tmp_path):
    (tmp_path / "state-00-00000003.pt.partial").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, keep=2)
    for stage, update in ((0, 5), (0, 1000), (1, 0), (1, 7)):
        assert checkpoints.save(state_of(stage, update))
    assert names(tmp_path) == ["state-01-00000000.pt", "state-01-00000007.pt"]


def test_a_damaged_newest_state_gives_way_to_the_one_before_and_says_so(tmp_path):
    for update in (1, 2):
        Checkpoints(tmp_path).save(state_of(0, update))
    damage(tmp_path / "state-00-00000002.pt")
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.warns(UserWarning, match=r"00002\.pt: not a readable training state .*going on from state-00-00000001"):
        state = checkpoints.load()
    assert state.update == 1
    checkpoints.save(state_of(0, 2))  # in the damaged one's place
    assert load_state(tmp_path / "state-00-00000002.pt").update == 2
    assert names(tmp_path) == ["state-00-00000002.pt", "state-00-00000002.pt.damaged"]


def test_where_every_state_is_damaged_the_run_does_not_start_anew_in_silence(tmp_path):
    Checkpoints(tmp_path).save(state_of(0, 1))
    damage(tmp_path / "state-00-00000001.pt")
    with pytest.raises(UserError, match="not a readable training state") as caught:
        train([toy_stage()], Settings(output=tmp_path), resume=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stored", [{"format": 1, "update": 3}, {"format": 2, "update": 3}, [1, 2]])
def test_a_state_of_another_version_is_refused_in_one_line(tmp_path, stored):
    torch.save(stored, tmp_path / "state.pt")
    with pytest.raises(UserError, match="not a training state of this version"):
        load_state(tmp_path / "state.pt")


class Trap:
    def __reduce__(self):
        return warnings.warn, ("executed",)


def test_a_state_cannot_run_code(tmp_path):
    torch.save({"format": 2, "model": Trap()}, tmp_path / "state.pt")
    with pytest.raises(UserError, match="not a readable"):
        load_state(tmp_path / "state.pt")


def test_a_run_keeps_as_many_states_as_it_is_told(tmp_path):
    settings = Settings(output=tmp_path, checkpoint_seconds=0, keep_checkpoints=3)
    train([toy_stage(Squares(ToyModel()), 6)], settings)
    assert [path.name for path in Checkpoints(tmp_path).paths()] == [
        "state-00-00000005.pt",
        "state-00-00000006.pt",
        "state-01-00000000.pt",
    ]

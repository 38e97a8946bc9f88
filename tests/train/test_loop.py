"""The loop: resuming, freezing, averaging, losses that are not finite."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from sewkit.data.batch import make_batch
from sewkit.text import Alphabet
from sewkit.train.loop import MAX_CONSECUTIVE_SKIPS, DivergedError, Settings, Stage, train
from sewkit.train.schedule import Schedule
from sewkit.train.state import TrainState, load_state, save_state

ALPHABET = Alphabet.english()


class Toy(nn.Module):
    """Two layers with dropout, so that resuming must restore its draws too."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.dropout, self.head = nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.dropout(torch.tanh(self.body(x))))


def batches(update):
    generator = np.random.default_rng(update)
    return make_batch([generator.standard_normal(8).astype(np.float32) for _ in range(4)], [""] * 4, ALPHABET)


def toy_stage(model, num_updates=12, loss=None, **changes):
    def squares(batch, update):
        value = (model(batch.waveforms) - 1).square().mean()
        return value, {"loss": value.item()}

    stage = {
        "name": "toy",
        "num_updates": num_updates,
        "schedule": Schedule(learning_rate=1e-2),
        "batches": batches,
        "loss": loss or squares,
        "trainable": lambda update: list(model.parameters()),
    }
    return Stage(**{**stage, **changes})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("stopped_after", [1, 5, 12])
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, stopped_after):
    whole = Toy()
    state = train(whole, [toy_stage(whole), toy_stage(whole)], Settings(output=tmp_path / "whole", average_decay=0.9))

    first = Toy()
    settings = Settings(output=tmp_path / "killed", average_decay=0.9, stop_after=stopped_after)
    train(first, [toy_stage(first), toy_stage(first)], settings)
    second = Toy()
    nn.init.zeros_(second.body.weight)  # resuming must not depend on the start
    resumed = train(
        second,
        [toy_stage(second), toy_stage(second)],
        Settings(output=tmp_path / "killed", average_decay=0.9),
        resume=True,
    )
    assert torch.equal(weights(whole), weights(second))
    assert all(torch.equal(value, resumed.average[name]) for name, value in state.average.items())
    assert resumed.stage == 2


def test_a_stages_own_head_survives_a_stop(tmp_path):
    def stage_with_head(model):
        torch.manual_seed(1)
        head = nn.Linear(2, 1)

        def loss(batch, update):
            value = (head(model(batch.waveforms)) - 1).square().mean()
            return value, {"loss": value.item()}

        return toy_stage(model, loss=loss, extra=head), head

    whole, killed, resumed = Toy(), Toy(), Toy()
    stage, head = stage_with_head(whole)
    train(whole, [stage], Settings(output=tmp_path / "whole"))
    train(killed, [stage_with_head(killed)[0]], Settings(output=tmp_path / "killed", stop_after=4))
    stage, other_head = stage_with_head(resumed)
    nn.init.zeros_(other_head.weight)
    train(resumed, [stage], Settings(output=tmp_path / "killed"), resume=True)
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(head.weight, other_head.weight)


def test_a_new_run_does_not_overwrite_an_old_one(tmp_path):
    model = Toy()
    train(model, [toy_stage(model)], Settings(output=tmp_path))
    with pytest.raises(ValueError, match="--resume"):
        train(model, [toy_stage(model)], Settings(output=tmp_path))


def test_frozen_parameters_do_not_move_until_their_update(tmp_path):
    model = Toy()
    before = model.body.weight.detach().clone()
    seen = []

    def trainable(update):
        seen.append(torch.equal(model.body.weight, before))
        return list(model.head.parameters()) if update < 6 else list(model.parameters())

    train(model, [toy_stage(model, trainable=trainable)], Settings(output=tmp_path, weight_decay=0.1))
    assert all(seen[:8])  # one call more sets up the optimiser; at update 6 the body first moves
    assert not torch.equal(model.body.weight, before)


def test_losses_that_are_not_finite_are_skipped_and_counted(tmp_path):
    model = Toy()

    def loss(batch, update):
        value = (model(batch.waveforms) - 1).square().mean() * (float("nan") if update in (2, 5) else 1.0)
        return value, {"loss": value.item()}

    assert train(model, [toy_stage(model, loss=loss)], Settings(output=tmp_path)).skipped == 2
    assert weights(model).isfinite().all()


def test_a_loss_that_stays_infinite_stops_the_run_with_advice(tmp_path):
    model = Toy()

    def loss(batch, update):
        return model(batch.waveforms).sum() * float("inf"), {"loss": float("inf")}

    with pytest.raises(DivergedError, match=f"{MAX_CONSECUTIVE_SKIPS} times in a row; lower the learning rate"):
        train(model, [toy_stage(model, 100, loss=loss)], Settings(output=tmp_path))


def test_the_log_is_one_json_object_a_line(tmp_path):
    model = Toy()
    stage = toy_stage(model, validate=lambda: {"wer_toy": 0.5})
    train(model, [stage], Settings(output=tmp_path, log_every=4, validate_every=6))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if "loss" in line] == [4, 8, 12]
    assert [line["update"] for line in lines if "wer_toy" in line] == [6, 12]


def test_a_state_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_state(TrainState(update=1, model={"w": torch.ones(3)}), path)

    def full(*arguments, **keywords):
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        save_state(TrainState(update=2, model={"w": torch.zeros(3)}), path)
    assert load_state(path).update == 1


def test_a_damaged_state_is_refused_in_one_line(tmp_path):
    path = tmp_path / "state.pt"
    save_state(TrainState(update=1, model={"w": torch.ones(3000)}), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"state\.pt: not a readable training state") as caught:
        load_state(path)
    assert "\n" not in str(caught.value)

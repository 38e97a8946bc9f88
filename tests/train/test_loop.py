"""The loop: what an update is, resuming, freezing, averaging, losses that are not finite, batches made by a thread."""

import math
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toy_stage import MICRO_BATCHES, Batches, Squares, ToyModel, freeze_at_first, read_lines, toy_stage

from sewkit.data.batch import make_batch
from sewkit.errors import UserError
from sewkit.objectives.loss import Loss, Objective
from sewkit.testing import TOYS, synthetic_speech, toy_model
from sewkit.train.loop import MAX_CONSECUTIVE_SKIPS, DivergedError, Settings, prefetch, train
from sewkit.train.schedule import Schedule


def weights(module):
    return torch.cat([value.detach().flatten().double() for value in module.state_dict().values()])


def two_stages():
    model = ToyModel()
    return [toy_stage(Squares(model)), toy_stage(Squares(model), name="second")]


@pytest.mark.parametrize("stopped_after", [1, 5, 12])
def test_a_stopped_run_resumes_to_the_same_weights(tmp_path, stopped_after):
    whole, first, rest = two_stages(), two_stages(), two_stages()
    state = train(whole, Settings(output=tmp_path / "whole", average_decay=0.9))
    train(first, Settings(output=tmp_path / "stopped", average_decay=0.9, stop_after=stopped_after))
    for parameter in rest[0].objective.parameters():
        nn.init.zeros_(parameter)  # resuming must not depend on the start
    resumed = train(rest, Settings(output=tmp_path / "stopped", average_decay=0.9), resume=True)
    assert torch.equal(weights(whole[1].objective), weights(rest[1].objective))
    assert all(torch.equal(value, resumed.average[name]) for name, value in state.average.items())
    assert resumed.stage == 2


def test_an_update_is_that_of_the_mean_over_all_rows(tmp_path):
    ours, plain = (Squares(ToyModel(dropout=0.0, layerdrop=0.0)) for _ in range(2))
    settings = Settings(output=tmp_path, weight_decay=0.1, decay_all=True, clip_norm=0.5)
    train([toy_stage(ours, 5, schedule=Schedule(kind="constant", learning_rate=1e-2))], settings)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)
    for update in range(5):
        rows = torch.cat([batch.waveforms for batch in Batches()(update)])
        optimizer.zero_grad()
        (plain.head(plain.norm.eval()(plain.model(rows))) - 1).square().mean().backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
    # four partial sums instead of one mean
    assert torch.allclose(weights(ours), weights(plain), atol=1e-6)


def test_a_new_run_does_not_overwrite_an_old_one(tmp_path):
    train([toy_stage()], Settings(output=tmp_path))
    with pytest.raises(ValueError, match="--resume"):
        train([toy_stage()], Settings(output=tmp_path))


def test_an_output_that_cannot_be_a_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below", Path("/dev/null/out")):
        with pytest.raises(UserError, match=f"{output}: expected a folder") as caught:
            train([toy_stage()], Settings(output=output))
        assert "\n" not in str(caught.value)


def test_a_state_of_another_model_is_refused_in_one_line(tmp_path):
    train([toy_stage()], Settings(output=tmp_path, stop_after=3))
    other = Squares(ToyModel())
    other.model.body = nn.Linear(8, 9)
    with pytest.raises(ValueError, match="does not fit this recipe") as caught:
        train([toy_stage(other)], Settings(output=tmp_path), resume=True)
    assert "\n" not in str(caught.value)


def test_frozen_parameters_do_not_move_until_their_update(tmp_path):
    objective = Squares(ToyModel())
    before, moved = weights(objective.model), []
    trainable = freeze_at_first(objective, 6)

    def watched(update):
        moved.append(not torch.equal(weights(objective.model), before))
        return trainable(update)

    train([toy_stage(objective, trainable=watched)], Settings(output=tmp_path, weight_decay=0.1))
    assert moved == [False] * 8 + [True] * 5  # the first call is for the optimiser; update 6 is the first that moves it


@pytest.mark.parametrize("spoiled", ["loss", "gradient"])
def test_updates_that_are_not_finite_are_left_out_and_alarm(tmp_path, spoiled):
    objective = Squares(ToyModel())
    spoil = (lambda loss: loss * math.nan) if spoiled == "loss" else NanGradient.apply
    objective.spoil = lambda loss, update: spoil(loss) if update in (2, 5) else loss
    settings = Settings(output=tmp_path, log_every=3)
    assert train([toy_stage(objective)], settings).skipped == 2
    assert weights(objective).isfinite().all()
    lines = read_lines(tmp_path)
    assert [line["skipped"] for line in lines] == [1, 1, 0, 0]
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert ["left out" in line.get("alarms", [""])[0] for line in lines] == [True, False, False, False]  # told once


class Counting(Squares):
    """Its batch norm counts the rows, which are infinite in update 2."""

    def forward(self, batch, update=0):
        self.norm.train()
        losses = self.head(self.norm(batch.waveforms * (math.inf if update == 2 else 1.0))).square()
        return Loss(losses.sum(), len(batch), {})


def test_batch_norm_forgets_an_update_that_is_left_out(tmp_path):
    objective = Counting(ToyModel())
    assert train([toy_stage(objective, 4)], Settings(output=tmp_path)).skipped == 1
    assert weights(objective).isfinite().all()
    assert int(objective.norm.num_batches_tracked) == 3 * MICRO_BATCHES


class NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


def test_a_loss_that_stays_infinite_stops_the_run_with_advice(tmp_path):
    objective = Squares(ToyModel(), lambda loss, update: loss * math.inf)
    with pytest.raises(DivergedError, match=f"{MAX_CONSECUTIVE_SKIPS} times in a row; lower the learning rate"):
        train([toy_stage(objective, 100)], Settings(output=tmp_path))


def test_an_update_without_batches_moves_nothing(tmp_path):
    objective = Squares(ToyModel())
    before = weights(objective)
    train([toy_stage(objective, batches=lambda update: [])], Settings(output=tmp_path, log_every=6))
    assert torch.equal(weights(objective), before)
    assert [line["loss"] for line in read_lines(tmp_path)] == [0.0, 0.0]


def test_the_log_is_one_json_object_a_line(tmp_path):
    stage = toy_stage(validate=lambda: {"wer_toy": 0.5})
    train([stage, stage], Settings(output=tmp_path, log_every=4, validate_every=6))
    lines = read_lines(tmp_path)
    assert [line["update"] for line in lines if "loss" in line] == [4, 8, 12] * 2
    assert [line["update"] for line in lines if "wer_toy" in line] == [6, 12] * 2
    assert [line["step"] for line in lines if "loss" in line] == [4, 8, 12, 16, 20, 24]
    assert {"learning_rate", "grad_norm", "squares", "waiting_for_data", "audio_per_second"} <= lines[0].keys()


def test_the_last_updates_of_a_stage_are_logged_too(tmp_path):
    train([toy_stage(num_updates=5)] * 2, Settings(output=tmp_path, log_every=4))
    assert [(line["update"], line["step"]) for line in read_lines(tmp_path)] == [(4, 4), (5, 5), (4, 9), (5, 10)]


def test_measuring_sees_averaged_weights_and_heads_and_puts_the_others_back(tmp_path):
    objective, seen = Squares(ToyModel()), []

    def measure():
        seen.append(weights(objective))
        assert not objective.training
        return {}

    state = train([toy_stage(objective, validate=measure)], Settings(output=tmp_path, average_decay=0.5))
    averaged = torch.cat([value.flatten().double() for value in state.average.values()])
    assert torch.equal(seen[0][: len(averaged)], averaged)
    assert not torch.equal(seen[0][len(averaged) :], weights(objective)[len(averaged) :])
    assert not torch.equal(averaged, weights(objective.model))
    assert objective.training


def test_measuring_is_not_counted_as_training_and_slow_data_is(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("sewkit.train.metrics.time", clock)

    def takes(seconds, result):
        clock.now += seconds
        return result

    objective = Squares(ToyModel(), lambda loss, update: takes(0.25, loss))  # four micro-batches an update
    slow = toy_stage(objective, 6, batches=lambda u: takes(3.0, Batches()(u)), validate=lambda: takes(100.0, {}))
    train([slow], Settings(output=tmp_path, log_every=3, validate_every=1, prefetch=0))
    for line in read_lines(tmp_path):
        if "loss" in line:
            assert line["seconds_per_update"] == pytest.approx(4.0)
            assert line["waiting_for_data"] == pytest.approx(0.75)


def test_an_error_in_making_batches_ends_the_run_and_the_thread(tmp_path):
    def broken(update):
        if update == 4:
            raise OSError("clip.wav: gone")
        return Batches()(update)

    with pytest.raises(OSError, match=r"clip\.wav: gone"):
        train([toy_stage(batches=broken)], Settings(output=tmp_path))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_batches_come_in_order_and_are_made_ahead():
    made = []
    drawn = prefetch(lambda update: made.append(update) or [], 5, 12, ahead=3)
    assert next(drawn)[0] == 5
    drawn.close()
    assert made[0] == 5
    assert len(made) <= 4
    assert [update for update, _ in prefetch(lambda update: [], 5, 12, ahead=3)] == list(range(5, 12))


class Energy(Objective):
    """Of the encoder's output, for tests of how its layers are run."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, update=0):
        frames = self.model.encode(batch.waveforms, batch.sample_lengths).frames
        return Loss(frames.square().sum(), 1, {})


def sound(update):
    return [make_batch([synthetic_speech(8000, update)], [""], None)]


def train_speech_model(folder, **settings):
    config = TOYS["sew"]
    model = toy_model(config.replace(dropout=config.dropout.model_copy(update={"layerdrop": 0.5, "hidden": 0.1})))
    train([toy_stage(Energy(model), 4, batches=sound)], Settings(output=folder, **settings))
    return model


def test_checkpointed_activations_give_the_same_weights(tmp_path):
    kept = train_speech_model(tmp_path / "kept")
    again = train_speech_model(tmp_path / "again", checkpoint_activations=True)
    assert again.encoder.checkpoint_layers
    assert torch.equal(weights(kept), weights(again))


def test_bfloat16_trains_weights_that_stay_float32(tmp_path):
    model = train_speech_model(tmp_path / "bf16", precision="bf16")
    exact = train_speech_model(tmp_path / "fp32")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert not torch.equal(weights(model), weights(exact))
    # Adam's first steps have the size of the learning rate, whatever the gradient
    assert torch.allclose(weights(model), weights(exact), atol=0.1)


def test_compile_is_of_the_layers_one_by_one(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    model = train_speech_model(tmp_path, compile=True)
    assert compiled == list(model.encoder.layers)

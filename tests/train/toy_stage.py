"""A stage that trains in milliseconds, for tests of the loop; run as a script, a process that can be killed or joined.

python toy_stage.py '{"output": "folder", "num_updates": 20, "kill": "half written"}'
"""

import json
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from sewkit.data.batch import make_batch, row_seeds
from sewkit.objectives.loss import Loss, Objective
from sewkit.train.loop import Settings, Stage, train
from sewkit.train.schedule import Schedule

MICRO_BATCHES = 4
ROWS = 3


class ToyEncoder(nn.Module):
    """Residual layers with LayerDrop, drawn as sewkit's encoder draws it."""

    def __init__(self, layerdrop):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.layerdrop, self.layer_random = layerdrop, torch.Generator()

    def forward(self, x):
        for layer in self.layers:
            dropped = self.training and torch.rand((), generator=self.layer_random) < self.layerdrop
            x = x if dropped else x + torch.tanh(layer(x))
        return x


class ToyModel(nn.Module):
    def __init__(self, dropout=0.5, layerdrop=0.3):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.encoder, self.dropout = nn.Linear(8, 8), ToyEncoder(layerdrop), nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.encoder(self.body(x)))


class Squares(Objective):
    """A head of its own that should always say 1; batch norm gives it buffers, integers among them."""

    def __init__(self, model, spoil=lambda loss, update: loss):
        super().__init__()
        torch.manual_seed(1)
        self.model, self.norm, self.head, self.spoil = model, nn.BatchNorm1d(8), nn.Linear(8, 1), spoil

    def forward(self, batch, update=0):
        self.norm.eval()  # each process would count its own rows
        losses = (self.head(self.norm(self.model(batch.waveforms))) - 1).square()
        total = self.spoil(losses.sum(), update)
        return Loss(total, len(batch), {"squares": losses.mean().detach()})


class Batches:
    """Rows are functions of (update, row); each process takes its share of the micro-batches."""

    def __init__(self, rank=0, world=1):
        self.rank, self.world = rank, world

    def __call__(self, update):
        return [self.batch(update, number) for number in range(self.rank, MICRO_BATCHES, self.world)]

    def batch(self, update, number):
        rows = np.arange(number * ROWS, number * ROWS + ROWS)
        seeds = row_seeds(0, update, rows)
        waveforms = [np.random.default_rng(int(seed)).standard_normal(8).astype(np.float32) for seed in seeds]
        return make_batch(waveforms, [""] * ROWS, None, seeds=seeds)


def toy_stage(objective=None, num_updates=12, **changes):
    objective = objective or Squares(ToyModel())
    stage = {
        "name": "toy",
        "num_updates": num_updates,
        "schedule": Schedule(learning_rate=1e-2),
        "batches": Batches(),
        "objective": objective,
        "trainable": lambda update: list(objective.parameters()),
    }
    return Stage(**{**stage, **changes})


def read_lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def freeze_at_first(objective, updates):
    """Only the head moves in the first updates."""
    return lambda update: list(objective.head.parameters() if update < updates else objective.parameters())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_death(moment, after):
    """SIGKILL at a moment of the state number `after`, or in update `after`."""
    save, replace, calls = torch.save, os.replace, []

    def counted():
        calls.append(1)
        return len(calls) == after

    def half_written(state, file):
        if counted():
            save(state, Path(file.name + ".whole"))
            file.write(Path(file.name + ".whole").read_bytes()[:2000])
            file.flush()
            die()
        save(state, file)

    def replaced(source, target):
        fatal = str(target).endswith(".pt") and counted()
        if fatal and moment == "before the rename":
            die()
        replace(source, target)
        if fatal:
            die()

    if moment == "half written":
        torch.save = half_written
    elif moment in ("before the rename", "after the rename"):
        os.replace = replaced


def run_script(options):
    output, rank, world = Path(options.pop("output")), options.pop("rank", 0), options.pop("world", 1)
    torch.set_num_threads(1)
    if world > 1:
        distributed.init_process_group(
            "gloo", init_method=f"file://{options.pop('meeting')}", rank=rank, world_size=world
        )
    kill, at = options.pop("kill", None), options.pop("kill_at", 3)
    sleep, full_at = options.pop("sleep", 0.0), options.pop("full_at", None)
    arrange_death(kill, at)

    def watch(loss, update):
        if kill == "in an update" and update == at:
            die()
        if update == full_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        time.sleep(sleep)
        return loss

    objective = Squares(ToyModel(options.pop("dropout", 0.5), options.pop("layerdrop", 0.3)), watch)
    stage = toy_stage(
        objective,
        options.pop("num_updates"),
        batches=Batches(rank, world),
        trainable=freeze_at_first(objective, options.pop("freeze", 0)),
    )
    resume = options.pop("resume", False)
    train([stage], Settings(output=output, **options), resume)


if __name__ == "__main__":
    from sewkit.cli import main

    warnings.simplefilter("error")
    warnings.simplefilter("default", UserWarning)
    main.app = lambda: run_script(json.loads(sys.argv[1]))
    main.main()

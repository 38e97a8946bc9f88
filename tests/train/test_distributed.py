"""Two processes under torchrun end with the weights of one."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from toy_recipes import write_recipe

from sewkit.train.finetune import run
from sewkit.train.recipe import FinetuneRecipe, load_recipe
from sewkit.train.state import Checkpoints

SCRIPT = """
import sys
from pathlib import Path
from sewkit.train.finetune import run
from sewkit.train.recipe import FinetuneRecipe, load_recipe
run(load_recipe(FinetuneRecipe, Path(sys.argv[1])), Path(sys.argv[2]))
"""


def test_two_processes_end_with_the_weights_of_one(folder):
    recipe = write_recipe(folder, micro_batches=2, threads=1, average_decay=0.9)
    run(load_recipe(FinetuneRecipe, recipe), folder / "one")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, str(script), str(recipe), str(folder / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path.cwd(), check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (Checkpoints(folder / name).load() for name in ("one", "two"))
    # sums in another order: 1e-6 relative per gradient, through Adam's division a little more
    assert all(torch.allclose(value, two.model[name], atol=1e-4) for name, value in one.model.items())
    assert all(torch.allclose(value, two.average[name], atol=1e-4) for name, value in one.average.items())

"""How long PyTorch's threads wait for one another awake; settled before PyTorch is imported.

At the end of each parallel piece of a model threads meet. GNU's OpenMP, which PyTorch's packages for Linux have, lets
the early ones count to 300,000 before they sleep. Where another process needs their cores, what they wait for does not
run meanwhile: with both of two cores busy a clip takes ten to twenty times as long, not twice. Counting to 10,000 costs
nothing where the cores are free (recipes/speed/measure_busy.py).
"""

import os
import sys

SPINS = "10000"
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""By either of these the user has said it; OpenMP reads them when it is loaded, with PyTorch."""


def wait_briefly() -> None:
    """For this process and those that it starts; too late, and so nothing, where PyTorch is imported already."""
    if "torch" not in sys.modules and not any(name in os.environ for name in SETTINGS):
        os.environ["GOMP_SPINCOUNT"] = SPINS

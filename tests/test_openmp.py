"""PyTorch's threads do not wait awake for long, unless the user or an earlier import has settled it."""

import os
import subprocess
import sys

import pytest

from sewkit.openmp import SETTINGS, SPINS


@pytest.mark.parametrize(
    ("first", "settings", "expected"),
    [
        ("", {}, SPINS),
        ("", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("", {"OMP_WAIT_POLICY": "passive"}, "None"),
        ("import sys; sys.modules['torch'] = None; ", {}, "None"),
    ],
    ids=["nothing said", "a count", "a policy", "too late"],
)
def test_threads_wait_as_briefly_as_nobody_else_has_settled(
    first: str, settings: dict[str, str], expected: str
) -> None:
    around = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    code = f"{first}import os, sewkit; print(os.environ.get('GOMP_SPINCOUNT'))"
    found = subprocess.run(
        [sys.executable, "-c", code], env=around | settings, capture_output=True, check=True, text=True
    )
    assert found.stdout.strip() == expected

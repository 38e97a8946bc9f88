"""A folder of toy recordings."""

import numpy as np
import pytest
import soundfile
from toy_recipes import write_rows


@pytest.fixture
def folder(tmp_path):
    """Ten short tones called YES and NO, and a recipe."""
    rows = []
    for number in range(10):
        word, hertz = (("YES", 1500), ("NO", 300))[number % 2]
        samples = 0.3 * np.sin(2 * np.pi * hertz * np.arange(4800) / 16_000)
        soundfile.write(tmp_path / f"{number}.wav", samples, 16_000)
        split = "dev" if number >= 8 else "train"
        rows.append({"audio": f"{number}.wav", "text": word, "speaker": "x", "duration": 0.3, "split": split})
    write_rows(tmp_path, rows)
    return tmp_path

"""Long recordings need no more memory than short ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

TRANSCRIBE = """
import resource, sys, sewkit
transcript = sewkit.load(sys.argv[1], threads=2).transcribe(sys.argv[2])
print(round(transcript.duration), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_megabytes(model: Path, recording: Path, seconds: int) -> int:
    with soundfile.SoundFile(recording, "w", 16_000, 1, "PCM_16") as file:
        minute = (np.random.default_rng(0).standard_normal(60 * 16_000) * 0.1).astype(np.float32)
        for _ in range(seconds // 60):
            file.write(minute)
    command = [sys.executable, "-c", TRANSCRIBE, str(model), str(recording)]
    duration, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(duration) == seconds
    return int(megabytes)


@pytest.mark.slow
def test_an_hour_needs_at_most_200_megabytes_more_than_ten_minutes(toy_folder: Path, tmp_path: Path) -> None:
    recording = tmp_path / "recording.wav"
    short, long = (peak_megabytes(toy_folder, recording, seconds) for seconds in (600, 3600))
    assert long - short < 200

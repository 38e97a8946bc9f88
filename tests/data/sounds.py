"""Small recordings and manifests for the tests of data."""

import json
import logging
from pathlib import Path

import numpy as np
import soundfile


def noise(seconds, seed=0, channels=1):
    """float32 that 16 bit hold exactly."""
    shape = (round(seconds * 16_000), channels) if channels > 1 else round(seconds * 16_000)
    return (np.random.default_rng(seed).integers(-8000, 8000, size=shape) / 32768).astype(np.float32)


def write_audio(path, seconds, seed=0, channels=1):
    """Writes and returns the samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = noise(seconds, seed, channels)
    soundfile.write(path, samples, 16_000)
    return samples


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_set(folder: Path, durations, text="ONE", **columns):
    """A manifest of flac files 0.flac, 1.flac, ..., each of its own noise."""
    rows = []
    for number, seconds in enumerate(durations):
        write_audio(folder / f"{number}.flac", seconds, seed=number)
        rows.append({"audio": f"{number}.flac", "text": text, "duration": seconds, "split": "train", **columns})
    return write_rows(folder / "manifest.jsonl", rows)


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

"""Is this installation sound? The environment, the optional parts, and the promise that batches change nothing."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from typing import NamedTuple

import numpy as np
import torch

from sewkit.audio import SAMPLE_RATE, load_audio
from sewkit.recognizer import Recognizer, load

EXTRAS = {
    "audio": "av",
    "train": "jiwer",
    "plot": "matplotlib",
    "lm": "kenlm",
    "mic": "sounddevice",
    "openvino": "openvino",
    "onnx": "onnxruntime",
    "serve": "fastapi",
    "bulk": "pyarrow",
    "cluster": "ray",
}
"""Extra -> a package that it brings."""
TOLERANCE = 1e-4
"""Largest difference of a logit between a clip in a padded batch and the clip alone, in float32."""
CLIP = "sense-and-sensibility.flac"
CLIP_TEXT = (
    "AND MISTER JOHN DASHWOOD HAD THEN LEISURE TO CONSIDER "
    "HOW MUCH THERE MIGHT BE PRUDENTLY IN HIS POWER TO DO FOR THEM"
)
CLIP_AGREEMENT = 0.75
"""Share of the clip's words that a published English model must get right; the smallest have about 10 % errors."""


class Check(NamedTuple):
    """One line of the report; `passed` is None for plain facts."""

    name: str
    found: str
    passed: bool | None = None


def environment() -> Iterator[Check]:
    """Versions, hardware and optional parts."""
    yield Check("python", platform.python_version())
    yield Check(
        "torch", f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    )
    yield Check("gpu", torch.cuda.get_device_name() if torch.cuda.is_available() else "none")
    for extra, package in EXTRAS.items():
        try:
            yield Check(f"extra {extra}", f"{package} {version(package)}")
        except PackageNotFoundError:
            yield Check(f"extra {extra}", f"not installed: pip install 'sewkit[{extra}]'")


def batch_invariance(asr: Recognizer) -> Check:
    """Clips of odd lengths in one padded batch against each alone."""
    generator = np.random.default_rng(0)
    clips = [generator.standard_normal(size).astype(np.float32) * 0.1 for size in (32000, 19999, 10050, 5003, 640, 300)]
    run = asr.runtime.logits if asr.loaded.alphabet is not None else asr.runtime.encode
    together, alone = run(clips, None), [run([clip], None)[0] for clip in clips]
    worst = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(together, alone, strict=True))
    return Check("padded batch equals single clips", f"largest difference {worst:.1e}", worst <= TOLERANCE)


def verify(model: str) -> Check:
    """Load a published English model, transcribe the clip that comes with the package, and check the words."""
    with as_file(files("sewkit") / "clips" / CLIP) as path:
        text = load(model).transcribe(load_audio(path)).text.upper()
    agreement = difflib.SequenceMatcher(None, text.split(), CLIP_TEXT.split(), autojunk=False).ratio()
    found = f"{agreement:.0%} of the words agree: {text!r}"
    if agreement < CLIP_AGREEMENT:
        found += f"; expected {CLIP_TEXT!r}"
    return Check(f"{model} reads the clip", found, agreement >= CLIP_AGREEMENT)


def speed(asr: Recognizer) -> Check:
    """Seconds of sound transcribed in a second, one clip of ten seconds."""
    from sewkit.bench.timing import interleaved

    clip = np.random.default_rng(0).standard_normal(10 * SAMPLE_RATE).astype(np.float32) * 0.1
    seconds = min(interleaved({"transcribe": lambda: asr.transcribe(clip)}, 3)["transcribe"])
    return Check("speed", f"{10 / seconds:.0f} times real time on {asr.name}")

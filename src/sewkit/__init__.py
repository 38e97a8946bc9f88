"""Efficient wav2vec 2.0 speech recognition: SEW, SEW-D and, of one model, every operating point.

import sewkit
asr = sewkit.load()
print(asr.transcribe("call.wav").text)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sewkit.openmp import wait_briefly
from sewkit.version import __version__

wait_briefly()

if TYPE_CHECKING:
    from sewkit.audio import AudioError
    from sewkit.bench.plan import Budget
    from sewkit.classification import Classification, LabelScore
    from sewkit.compute import Compute, Refinement
    from sewkit.config import PUBLISHED, ModelConfig
    from sewkit.decode import BeamSearch
    from sewkit.errors import UserError
    from sewkit.recognizer import Recognizer, load
    from sewkit.segments import Segmentation
    from sewkit.streaming import Final, Partial, Stream
    from sewkit.transcript import AlignedWord, Alignment, Character, Segment, Transcript, Word

_HOME = {
    "AlignedWord": "transcript",
    "Alignment": "transcript",
    "AudioError": "audio",
    "BeamSearch": "decode",
    "Budget": "bench.plan",
    "Character": "transcript",
    "Classification": "classification",
    "Compute": "compute",
    "Final": "streaming",
    "LabelScore": "classification",
    "ModelConfig": "config",
    "PUBLISHED": "config",
    "Partial": "streaming",
    "Recognizer": "recognizer",
    "Refinement": "compute",
    "Segment": "transcript",
    "Segmentation": "segments",
    "Stream": "streaming",
    "Transcript": "transcript",
    "UserError": "errors",
    "Word": "transcript",
    "load": "recognizer",
}

__all__ = [
    "PUBLISHED",
    "AlignedWord",
    "Alignment",
    "AudioError",
    "BeamSearch",
    "Budget",
    "Character",
    "Classification",
    "Compute",
    "Final",
    "LabelScore",
    "ModelConfig",
    "Partial",
    "Recognizer",
    "Refinement",
    "Segment",
    "Segmentation",
    "Stream",
    "Transcript",
    "UserError",
    "Word",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: `import sewkit` and `sewkit --help` stay free of torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'sewkit' has no attribute {name!r}")
    value = getattr(import_module(f"sewkit.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

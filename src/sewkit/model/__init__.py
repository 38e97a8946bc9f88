"""The model family: wav2vec 2.0, SEW and SEW-D, one file for each idea."""

from sewkit.model.model import Encoded, Masks, SpeechModel, build_model
from sewkit.model.shape import build_empty, build_shape

__all__ = ["Encoded", "Masks", "SpeechModel", "build_empty", "build_model", "build_shape"]

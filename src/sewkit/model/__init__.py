"""The model family: wav2vec 2.0, SEW and SEW-D, one file for each idea."""

from sewkit.model.model import Encoded, Masks, SpeechModel, build_model

__all__ = ["Encoded", "Masks", "SpeechModel", "build_model"]

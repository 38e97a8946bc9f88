"""Save and load models: transformers' folders and hub ids, original .pt files, bundled models."""

from sewkit.checkpoint.averaging import average
from sewkit.checkpoint.errors import CheckpointError
from sewkit.checkpoint.loaded import LoadedModel
from sewkit.checkpoint.loading import bundled_models, convert, load_model, with_weights
from sewkit.checkpoint.saving import save_loaded, save_model

__all__ = [
    "CheckpointError",
    "LoadedModel",
    "average",
    "bundled_models",
    "convert",
    "load_model",
    "save_loaded",
    "save_model",
    "with_weights",
]

"""From logits to words."""

from sewkit.decode.beam import BeamSearch, Hypothesis, Pruning
from sewkit.decode.decoder import Decoder
from sewkit.decode.fusion import FusionWeights
from sewkit.decode.greedy import FrameLabels, FrameTiming, GreedySearch, best_labels, decode_words

__all__ = [
    "BeamSearch",
    "Decoder",
    "FrameLabels",
    "FrameTiming",
    "FusionWeights",
    "GreedySearch",
    "Hypothesis",
    "Pruning",
    "best_labels",
    "decode_words",
]

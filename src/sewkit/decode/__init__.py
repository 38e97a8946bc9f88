"""From logits to words."""

from sewkit.decode.greedy import FrameLabels, FrameTiming, best_labels, decode_words

__all__ = ["FrameLabels", "FrameTiming", "best_labels", "decode_words"]

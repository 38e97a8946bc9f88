"""From logits to words."""

from sewkit.decode.greedy import FrameLabels, best_labels, decode_words

__all__ = ["FrameLabels", "best_labels", "decode_words"]

"""What int8 does to the extractor, by what shares a scale: why `runtime/graph_features.py` gives the frames of each
stride their own.

The inputs and weights of the bundled model's convolutions but the first are rounded to 8 bits in PyTorch: one scale for
all sound (from its smallest and largest number over the clips), one a channel, one a clip, or one a frame. Printed are
the word error rate and the share of letters that change.

    python recipes/speed/measure_int8_extractor.py recipes/bundled/dev-*.jsonl --data-root data
"""

import argparse
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from sewkit.checkpoint import load_model
from sewkit.compute import resolve
from sewkit.data.manifest import load_utterance, read_manifest
from sewkit.evaluate.wer import letter_errors, rate_of, word_errors
from sewkit.model import features

Range = tuple[Tensor, Tensor]
AXES: dict[str, tuple[int, ...] | None] = {"each frame": (2,), "each clip": (1, 2)}
"""What of (1, T, C) is gone through for a scale that is taken as the sound comes."""


class Rounding:
    """In place of `conv_channels_last`: rounds, or notes the range of every channel."""

    def __init__(self, convolve: Callable[..., Tensor]):
        self.convolve = convolve
        self.ranges: dict[Tensor, Range] = {}
        """By weights, which are those of one convolution."""
        self.shared: str | None = None

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        """The convolution, of notes or of rounded numbers."""
        if self.shared is None:
            low, high = self.ranges.get(weight, (x.amin((0, 1)), x.amax((0, 1))))
            self.ranges[weight] = torch.minimum(low, x.amin((0, 1))), torch.maximum(high, x.amax((0, 1)))
            return self.convolve(x, weight, bias, stride)
        largest = weight.abs().amax((1, 2), keepdim=True)
        x = rounded(x, *self.range_of(x, weight))
        return self.convolve(x, rounded(weight, -largest, largest), bias, stride)

    def range_of(self, x: Tensor, weight: Tensor) -> Range:
        """The smallest and the largest number that a scale is made for."""
        if self.shared in AXES:
            return x.amin(AXES[self.shared], keepdim=True), x.amax(AXES[self.shared], keepdim=True)
        low, high = self.ranges[weight]
        return (low, high) if self.shared == "each channel" else (low.min(), high.max())


def rounded(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """To 256 values between `low` and `high`, 0 among them."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = (high - low) / 255 + 1e-12
    return ((x / step).round().clamp((low / step).round(), (low / step).round() + 255)) * step


def main() -> None:
    """See the head of this file."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("lists", nargs="+", type=Path)
    options.add_argument("--data-root", type=Path, default=Path("data"))
    options.add_argument("--model", default="sew-words")
    chosen = options.parse_args()
    loaded = load_model(chosen.model)
    rows = list(chain(*(read_manifest(path, root=chosen.data_root) for path in chosen.lists)))
    clips, texts = [load_utterance(row) for row in rows], [row.text for row in rows]
    model, point = loaded.model.eval(), resolve(loaded.model.config, None)

    @torch.inference_mode()
    def heard() -> list[str]:
        found = []
        for clip in clips:
            logits, lengths = model(torch.from_numpy(clip)[None], torch.tensor([len(clip)]), point)
            found.append(loaded.alphabet.collapse(logits[0, : lengths[0]].argmax(-1).tolist()))
        return found

    rounding = Rounding(features.conv_channels_last)
    with mock.patch.object(features, "conv_channels_last", rounding):
        plain = heard()
        print(f"float32: {rate_of(word_errors(texts, plain)):.1%} of words wrong")
        for shared in ("everything", "each channel", "each clip", "each frame"):
            rounding.shared = shared
            found = heard()
            print(
                f"one scale for {shared}: {rate_of(word_errors(texts, found)):.1%} of words wrong, "
                f"{rate_of(letter_errors(plain, found)):.2%} of letters changed",
                flush=True,
            )


if __name__ == "__main__":
    main()

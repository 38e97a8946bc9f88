"""Would pooling whole layers buy time that squeezing does not? Random weights, so time and MACs only, no errors.

A whole layer pooled by 2 runs attention and feed-forward on the means of two frames each; what it adds is repeated and
added to the frames as they were. Beside it: squeezing alone, and pooling inside attention as sewkit has it. One clip of
noise alone in its batch, all ways in turn.

    python recipes/stochastic/measure_layer_pooling.py --seconds 10 --runs 15 --threads 1 --output layer-pooling.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.timing import environment, interleaved, ratio
from sewkit.compute import Compute, macs
from sewkit.config import PUBLISHED, ModelConfig, compact_conv_layers
from sewkit.model import SpeechModel, build_model
from sewkit.model.pooling import NO_POOLING, Pooling

SIZES: dict[str, ModelConfig] = {
    "H=192, 8 layers": PUBLISHED["sew-tiny"].replace(
        conv_layers=compact_conv_layers(16), hidden_size=192, num_layers=8, num_heads=3, ffn_size=768
    ),
    "H=512, 12 layers": PUBLISHED["sew-tiny"],
}
SETS = {"squeeze_factors": (1, 2, 3, 4, 6, 8), "query_pools": (1, 2), "kv_pools": (1, 2)}
POINTS = ("squeeze=1", "squeeze=1,query_pool=2,kv_pool=2", "squeeze=2", "squeeze=2,query_pool=2,kv_pool=2")
POINTS += ("squeeze=3", "squeeze=4", "squeeze=6", "squeeze=8")
POOLED_AT = (1, 2, 4)
"""Squeeze factors at which layers are pooled whole: all of them, or the second half."""


class PooledLayer(nn.Module):
    """A layer on the means of two frames each; for one clip without padding."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, key_mask: Tensor | None, positions: None, pooling: Pooling) -> Tensor:
        """(1, U, H) -> (1, U, H)."""
        means = F.avg_pool1d(x.transpose(1, 2), 2, ceil_mode=True).transpose(1, 2)
        added = self.layer(means, None, None, NO_POOLING) - means
        return x + added.repeat_interleave(2, dim=1)[:, : x.shape[1]]


def pooled(model: SpeechModel, first: int) -> SpeechModel:
    """The same weights, layers from number `first` on pooled whole."""
    made = build_model(model.config).eval()
    made.load_state_dict(model.state_dict())
    for number, layer in enumerate(made.encoder.layers):
        if number >= first:
            made.encoder.layers[number] = PooledLayer(layer)
    return made


def pooled_macs(config: ModelConfig, num_samples: int, squeeze: int, share: float) -> float:
    """A share of the layers as at twice the squeeze factor, all else as it is."""
    own = macs(config, num_samples, Compute(squeeze))
    half = macs(config, num_samples, Compute(2 * squeeze))
    saved = sum(own[stage] - half[stage] for stage in own if stage.startswith("encoder"))
    return sum(own.values()) - share * saved


def measure(config: ModelConfig, seconds: float, runs: int) -> list[dict[str, Any]]:
    """A row for each way, the dearest first."""
    torch.manual_seed(0)
    model, num_samples = build_model(config).eval(), int(seconds * SAMPLE_RATE)
    waveform, lengths = torch.randn(1, num_samples), torch.tensor([num_samples])
    halves = {"all": pooled(model, 0), "second half": pooled(model, config.num_layers // 2)}

    @torch.inference_mode()
    def encode(one: SpeechModel, point: Compute) -> None:
        one.encode(waveform, lengths, point)

    @torch.inference_mode()
    def extract() -> None:
        model.extract(waveform, lengths)

    calls: dict[str, Callable[[], object]] = {"extractor": extract}
    cost = {"extractor": float(macs(config, num_samples)["features"])}
    for text in POINTS:
        calls[text] = partial(encode, model, Compute.parse(text))
        cost[text] = sum(macs(config, num_samples, Compute.parse(text)).values())
    for squeeze in POOLED_AT:
        for which, share in (("all", 1.0), ("second half", 0.5)):
            name = f"squeeze={squeeze}, {which} layers pooled whole"
            calls[name] = partial(encode, halves[which], Compute(squeeze))
            cost[name] = pooled_macs(config, num_samples, squeeze, share)
    times = interleaved(calls, runs)
    rows = [
        {
            "way": name,
            "mmac_per_second": cost[name] / seconds / 1e6,
            "median_ms": 1e3 * sorted(times[name])[runs // 2],
            "of_dearest": 1 / ratio(times["squeeze=1"], times[name]),
        }
        for name in calls
    ]
    return sorted(rows, key=lambda row: -row["of_dearest"])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    sizes = {name: measure(config.replace(**SETS), options.seconds, options.runs) for name, config in SIZES.items()}
    for name, rows in sizes.items():
        print(f"\n{name}\n\n| way | MMAC/s | ms | of the dearest |\n|---|---|---|---|")
        for row in rows:
            print(
                f"| {row['way']} | {row['mmac_per_second']:,.0f} | {row['median_ms']:.0f} | {row['of_dearest']:.2f} |"
            )
    if options.output:
        facts = {"environment": environment(), "clip_seconds": options.seconds, "runs": options.runs, "sizes": sizes}
        options.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

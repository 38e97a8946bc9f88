"""What each operating point of a model costs: the time of a forward pass, measured, beside its MACs, counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from sewkit.audio import SAMPLE_RATE
from sewkit.bench.timing import interleaved, ratio, summary
from sewkit.compute import Compute, macs, operating_points
from sewkit.model import SpeechModel

EXTRACTOR = "extractor"


def time_grid(model: SpeechModel, seconds: float, runs: int) -> list[dict[str, Any]]:
    """A row for each point, cheapest first: a clip of noise alone in its batch, all points and the extractor in turn.

    `times_as_fast` is against the dearest point; `extractor_share` is the part of the time that goes into the feature
    extractor, which is the same work at every point. The model may be on any device.
    """
    waveform = torch.randn(1, int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    waveform, lengths = waveform.to(model.mask_embedding), torch.tensor([waveform.shape[1]])
    lengths = lengths.to(waveform.device)

    def wait() -> None:
        if waveform.is_cuda:
            torch.cuda.synchronize(waveform.device)

    @torch.inference_mode()
    def encode(point: Compute) -> None:
        model.encode(waveform, lengths, point)
        wait()

    @torch.inference_mode()
    def extract() -> None:
        model.extract(waveform, lengths)
        wait()

    points = operating_points(model.config)
    calls: dict[str, Callable[[], object]] = {EXTRACTOR: extract}
    calls |= {str(point): partial(encode, point) for point in points}
    times = interleaved(calls, runs)
    return [
        {
            "point": str(point),
            "macs_per_second": int(sum(macs(model.config, waveform.shape[1], point).values()) / seconds),
            "seconds": summary(times[str(point)]),
            "times_as_fast": ratio(times[str(points[-1])], times[str(point)]),
            "extractor_share": 1 / ratio(times[str(point)], times[EXTRACTOR]),
        }
        for point in points
    ]

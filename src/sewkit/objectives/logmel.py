"""Regression of log-mel energies from the extractor's output: a start for an extractor with random weights.

A raw-waveform extractor trained by CTC from nothing sits on the blank plateau. A minute of predicting 40 log-mel
bands, each normalised over the batch, through one linear layer gives it features to work with. No labels are needed.
Mel scale and triangles as in HTK; windows of 400 samples every 320, so that frame t sees what extractor frame t sees.
"""

from functools import cache

import torch
from torch import Tensor, nn

from sewkit.audio import SAMPLE_RATE
from sewkit.data.batch import Batch
from sewkit.lengths import valid_mask
from sewkit.model import SpeechModel
from sewkit.objectives.loss import Loss, Objective

NUM_BANDS = 40
WINDOW_SAMPLES = 400
HOP_SAMPLES = 320
FFT_SAMPLES = 512


@cache
def mel_filters(num_bands: int = NUM_BANDS) -> Tensor:
    """(FFT_SAMPLES // 2 + 1, num_bands) triangles, equally spaced on the mel scale from 20 Hz to 8 kHz."""
    low, high = _hertz_to_mel(torch.tensor([20.0, SAMPLE_RATE / 2]))
    edges = 700 * (10 ** (torch.linspace(float(low), float(high), num_bands + 2) / 2595) - 1)
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, FFT_SAMPLES // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0)


def _hertz_to_mel(hertz: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + hertz / 700)


def log_mel(waveforms: Tensor) -> Tensor:
    """(B, S) -> (B, T, NUM_BANDS), T = (S - 400) // 320 + 1."""
    windows = waveforms.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES) * torch.hann_window(
        WINDOW_SAMPLES, device=waveforms.device
    )
    power = torch.fft.rfft(windows, FFT_SAMPLES).abs().square()
    return (power @ mel_filters().to(power) + 1e-5).log()


class LogMel(Objective):
    """Mean squared error as a share of the variance of each band (1.0 = predicting the mean)."""

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Linear(model.config.feature_size, NUM_BANDS)

    def forward(self, batch: Batch, update: int = 0) -> Loss:
        """Mean over the batch's frames; counts 1, of no rows 0."""
        x, frame_lengths = self.model.features(batch.waveforms, batch.sample_lengths)
        if not len(batch):
            return Loss(self.head(x).float().sum(), 0, {})  # 0, but with a way back, as `CTC` has it
        valid = valid_mask(frame_lengths, x.shape[1])
        target = log_mel(batch.waveforms)[:, : x.shape[1]][valid]
        target = (target - target.mean(dim=0)) / target.std(dim=0).clamp(min=1e-3)
        return Loss((self.head(x[valid].float()) - target).square().mean(), 1, {})

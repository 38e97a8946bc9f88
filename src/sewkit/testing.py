"""For tests, ours and users': toy models of every family, and sounds that resemble speech. No network, no files."""

from __future__ import annotations

import numpy as np
import torch

from sewkit.config import ModelConfig, Stochastic, compact_conv_layers, wav2vec2_conv_layers
from sewkit.model import SpeechModel, build_model

SAMPLE_RATE = 16_000

_TOY_W2V2 = ModelConfig(
    family="wav2vec2",
    conv_layers=wav2vec2_conv_layers(16),
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    ffn_size=48,
    pos_conv_kernel=16,
    pos_conv_groups=4,
    vocab_size=32,
)
_TOY_SEW = _TOY_W2V2.replace(family="sew", conv_layers=compact_conv_layers(4), pos_conv_kernel=15, squeeze_factor=2)

TOYS: dict[str, ModelConfig] = {
    "w2v2": _TOY_W2V2,
    "w2v2-prenorm": _TOY_W2V2.replace(
        extractor_norm="layer", conv_bias=True, norm_first=True, normalize_input=True, project_features=True
    ),
    "sew": _TOY_SEW,
    "sew-s1": _TOY_SEW.replace(squeeze_factor=1),
    "sew-s3": _TOY_SEW.replace(squeeze_factor=3, conv_layers=compact_conv_layers(2)),
    "sew-s4": _TOY_SEW.replace(squeeze_factor=4, extractor_norm="layer", conv_bias=True, normalize_input=True),
    # Eight buckets and sixteen positions: a clip of two seconds reaches the logarithmic ones and both ends.
    "sew-d": _TOY_SEW.replace(family="sew-d", layer_norm_eps=1e-7, position_buckets=8, max_positions=16),
    "sew-d-s3": _TOY_SEW.replace(
        family="sew-d", layer_norm_eps=1e-7, squeeze_factor=3, conv_layers=compact_conv_layers(2)
    ),
}
"""Small configurations with a CTC head of 32 letters, each with what its name says; milliseconds a forward."""

_GRID = Stochastic().model_dump()
STOCHASTIC_TOYS: dict[str, ModelConfig] = {
    "stochastic-sew": _TOY_SEW.replace(**_GRID),
    "stochastic-sew-d": TOYS["sew-d"].replace(**_GRID),
    "stochastic-w2v2": _TOY_W2V2.replace(**_GRID),
}
"""The same for stochastic models, with squeeze factors 1 to 4 and pools of 1 and 2."""


def toy_model(config: ModelConfig | str = "sew", seed: int = 0) -> SpeechModel:
    """A model of random weights in evaluation mode; a name means one of `TOYS` or `STOCHASTIC_TOYS`.

    No tensor keeps a default such as 0 or 1, so that two which were mistaken for each other show in the output.
    """
    config = {**TOYS, **STOCHASTIC_TOYS}[config] if isinstance(config, str) else config
    generator = torch.Generator().manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_gain = ("norm" in name and name.endswith("weight")) or name.endswith("weight_g")
            if is_gain:
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 1:
                parameter.copy_(0.2 * noise)
            else:
                # What deep encoders add to their input is kept small: attention averages over time, and frames would
                # come out alike.
                adds = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
                gain = 1 / config.num_layers if adds else 2.0
                parameter.copy_(noise * (gain / parameter[0].numel()) ** 0.5)
    return model.eval()


def synthetic_speech(num_samples: int, seed: int = 0) -> np.ndarray:
    """Float32 samples at 16 kHz that resemble speech: voiced syllables of changing pitch, pauses, and a noise floor."""
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples) / SAMPLE_RATE
    pitch = 120 + 40 * np.sin(2 * np.pi * generator.uniform(0.5, 2) * time + generator.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * generator.uniform(2, 4) * time + generator.uniform(0, 6)), 0, 1)
    return (0.1 * voice * syllables + 0.003 * generator.standard_normal(num_samples)).astype(np.float32)


def padded_batch(waveforms: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms -> (B, S) zero-padded float32 and (B,) int64 lengths, as models take them."""
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    batch = torch.zeros(len(waveforms), int(lengths.max()))
    for row, waveform in zip(batch, waveforms, strict=True):
        row[: len(waveform)] = torch.from_numpy(waveform)
    return batch, lengths

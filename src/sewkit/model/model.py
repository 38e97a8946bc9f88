"""The model: one forward that reads like figure 2 of SEW, for wav2vec 2.0, SEW and SEW-D alike.

    waveforms (B, S)
      features.py      convolutions, 320 samples a frame             -> (B, T, C)
                       LayerNorm, linear projection, masking         -> (B, T, H)
      squeeze.py       positional convolution + average pool         -> (B, U, H), U = floor(T / s)
      encoder.py       transformer layers with attention.py,
                       or with disentangled.py (SEW-D); inside them
                       pooling.py, where the operating point pools   -> (B, U, H)
      upsample.py      linear, s frames out of each (not in W2V2)    -> (B, T, H)
      heads.py         CTC letters (B, T, V), or classes (B, labels)

Pre-training (objectives/contrastive.py) takes the features between the two halves, `extract` and `contextualize`.

The operating point `compute` sets s and the pools; a fixed model has one, a stochastic model (stochastic.py) a grid.
Every stage honours lengths: what shares a batch never changes a result.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sewkit.compute import Compute, resolve
from sewkit.config import ModelConfig
from sewkit.lengths import min_samples
from sewkit.model.attention import SelfAttention
from sewkit.model.disentangled import DisentangledAttention, RelativePositions
from sewkit.model.encoder import Encoder, EncoderLayer, FeedForward
from sewkit.model.features import FeatureExtractor, normalize_waveforms
from sewkit.model.heads import ClassificationHead, CTCHead
from sewkit.model.squeeze import Squeeze
from sewkit.model.upsample import Upsample, Upsamples


class Masks(NamedTuple):
    """What is hidden from the encoder in training: frames (B, T) become the mask vector, channels (B, H) become 0."""

    time: Tensor | None
    channel: Tensor | None


class Encoded(NamedTuple):
    """Encoder output (B, T, H) at 50 Hz with its lengths (B,), and each layer's states (B, U, H) with theirs."""

    frames: Tensor
    lengths: Tensor
    states: list[Tensor]
    state_lengths: Tensor


class SpeechModel(nn.Module):
    """wav2vec 2.0, SEW or SEW-D, put together by `build_model`."""

    def __init__(
        self, config: ModelConfig, encoder: Encoder, upsample: Upsample | Upsamples | None, head: nn.Module | None
    ):
        super().__init__()
        self.config = config
        self.features = FeatureExtractor(config)
        self.feature_norm = nn.LayerNorm(config.feature_size, eps=config.feature_norm_eps)
        self.projection = (
            nn.Linear(config.feature_size, config.hidden_size) if config.project_features else nn.Identity()
        )
        self.input_dropout = nn.Dropout(config.dropout.input)
        self.mask_embedding = nn.Parameter(torch.rand(config.hidden_size))
        self.squeeze = Squeeze(config)
        self.encoder = encoder
        self.upsample = upsample
        self.head = head

    def forward(
        self, waveforms: Tensor, lengths: Tensor, compute: Compute | None = None, masks: Masks | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, S) samples at 16 kHz, (B,) valid samples -> head output, (B,) valid frames.

        The head's output is (B, T, V) letter scores or (B, labels) class scores. Frames beyond a row's length are
        undefined. T is at least one squeezed frame's worth, also for clips shorter than that.
        """
        encoded = self.encode(waveforms, lengths, compute, masks)
        if isinstance(self.head, CTCHead):
            return self.head(encoded.frames), encoded.lengths
        if isinstance(self.head, ClassificationHead):
            return self.head(*self.class_frames(encoded)), encoded.lengths
        raise ValueError("this model is a bare encoder without a head: use encode(), or fine-tune it first")

    def class_frames(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """(B, T, H) and valid frames (B,) for a classification head: the encoder's output, or a mix of layers."""
        assert isinstance(self.head, ClassificationHead)
        if self.head.layer_weights is None:
            return encoded.frames, encoded.lengths
        return self.head.mix(encoded.states), encoded.state_lengths

    def encode(
        self, waveforms: Tensor, lengths: Tensor, compute: Compute | None = None, masks: Masks | None = None
    ) -> Encoded:
        """(B, S) samples, (B,) -> the encoder's output at 50 Hz and every layer's states."""
        features, lengths = self.extract(waveforms, lengths, compute)
        return self.contextualize(self.feature_norm(features), lengths, compute, masks)

    def extract(self, waveforms: Tensor, lengths: Tensor, compute: Compute | None = None) -> tuple[Tensor, Tensor]:
        """(B, S) samples, (B,) -> (B, T, C) features, not yet normed, and (B,) frames."""
        waveforms = self.prepare(waveforms, lengths, resolve(self.config, compute))
        return self.features(waveforms, lengths)

    def contextualize(
        self, features: Tensor, lengths: Tensor, compute: Compute | None = None, masks: Masks | None = None
    ) -> Encoded:
        """(B, T, C) normed features, (B,) frames -> what `encode` gives."""
        compute = resolve(self.config, compute)
        x = self.project(features, masks)
        squeezed, state_lengths = self.squeeze(x, lengths, compute.squeeze)
        states = self.encoder(squeezed, state_lengths, compute)
        frames = self.unsqueeze(states[-1], lengths, x.shape[1], compute)
        return Encoded(frames, lengths, states, state_lengths)

    def unsqueeze(self, states: Tensor, lengths: Tensor, num_frames: int, compute: Compute | None = None) -> Tensor:
        """(B, U, H) states of a layer, (B,) frames -> (B, num_frames, H) at 50 Hz, by the factor of `compute`."""
        if self.upsample is None:
            return states
        if isinstance(self.upsample, Upsamples):
            return self.upsample(states, lengths, num_frames, resolve(self.config, compute).squeeze)
        return self.upsample(states, lengths, num_frames)

    def prepare(self, waveforms: Tensor, lengths: Tensor, compute: Compute) -> Tensor:
        """Normalise if the model wants it, and pad to the shortest input that no stage turns into nothing."""
        if self.config.normalize_input:
            waveforms = normalize_waveforms(waveforms, lengths, self.config.input_norm_eps)
        missing = min_samples(self.config.conv_layers, compute.squeeze) - waveforms.shape[1]
        return F.pad(waveforms, (0, missing)) if missing > 0 else waveforms

    def project(self, features: Tensor, masks: Masks | None) -> Tensor:
        """(B, T, C) normed features -> (B, T, H) encoder input, masked in training."""
        x = self.input_dropout(self.projection(features))
        if masks is not None and masks.time is not None:
            x = torch.where(masks.time[:, :, None], self.mask_embedding.to(x.dtype), x)
        if masks is not None and masks.channel is not None:
            x = x.masked_fill(masks.channel[:, None, :], 0.0)
        return x

    def num_parameters(self) -> int:
        """Parameters of model and head; the mask vector, used in training only, is counted."""
        return sum(parameter.numel() for parameter in self.parameters())


def build_model(config: ModelConfig) -> SpeechModel:
    """A model with random weights. The one place where the families are told apart."""
    dropout, hidden = config.dropout, config.hidden_size
    disentangled = config.family == "sew-d"
    # The original SEW-D maps activation dropout to DeBERTa's hidden dropout and has none inside the feed-forward block.
    layer_dropout, activation_dropout = (
        (dropout.activation, 0.0) if disentangled else (dropout.hidden, dropout.activation)
    )

    def attention() -> nn.Module:
        if disentangled:
            return DisentangledAttention(hidden, config.num_heads, dropout.attention, layer_dropout)
        return SelfAttention(hidden, config.num_heads, dropout.attention)

    layers = [
        EncoderLayer(
            attention(),
            FeedForward(hidden, config.ffn_size, activation_dropout),
            config.norm_first,
            config.layer_norm_eps,
            layer_dropout,
        )
        for _ in range(config.num_layers)
    ]
    if disentangled:
        table = RelativePositions(
            hidden, config.position_buckets, config.max_positions, config.layer_norm_eps, config.position_unit
        )
        encoder = Encoder(layers, None, table, 0.0, dropout.layerdrop)
    else:
        norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        encoder = Encoder(layers, norm, None, dropout.hidden, dropout.layerdrop)
        _init_like_bert(encoder)
    return SpeechModel(config, encoder, _build_upsample(config), _build_head(config))


def _build_upsample(config: ModelConfig) -> Upsample | Upsamples | None:
    """SEW's linear layer; a stochastic model has one for each factor, but where it began as wav2vec 2.0 none for 1."""
    factors = [factor for factor in config.squeeze_factors if factor > 1 or config.family != "wav2vec2"]
    if not factors:
        return None
    if len(config.squeeze_factors) == 1:
        return Upsample(config.hidden_size, *factors)
    return Upsamples({str(factor): Upsample(config.hidden_size, factor) for factor in factors})


def _build_head(config: ModelConfig) -> nn.Module | None:
    if config.vocab_size is not None:
        return CTCHead(config.hidden_size, config.vocab_size, config.dropout.final)
    if config.num_labels is not None:
        mixed = config.num_layers + 1 if config.weighted_layer_sum else None
        return ClassificationHead(config.hidden_size, config.classifier_size, config.num_labels, mixed)
    return None


def _init_like_bert(encoder: Encoder) -> None:
    """Linear layers from N(0, 0.02), biases 0, as in fairseq; SEW-D keeps PyTorch's default, as the original does."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

"""The contrastive objective of wav2vec 2.0 (section 3.2) and SEW: find the masked frame's quantised features again.

    features    extract                                            -> (B, T, C)
    targets     masked frames, quantised, through the target head  -> (B, M, final_dim)
    context     masked frames of the encoder, which saw the mask
                vector there, through the context head             -> (B, M, final_dim)
    logits      cosine of each context with its own target and with N others of its utterance -> (B, M, 1 + N)

and the cross-entropy of the first of those, summed, plus two penalties: on unused code words and on large features.
B batch, T frames, C channels, M masked frames (as many in every row), N negatives, G groups of V code words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from sewkit.checkpoint import load_model
from sewkit.checkpoint.errors import blaming
from sewkit.checkpoint.keymap import check_fit
from sewkit.checkpoint.pretraining import PretrainingHeads, read_heads
from sewkit.compute import Compute
from sewkit.config import Size
from sewkit.data.batch import Batch
from sewkit.errors import UserError
from sewkit.lengths import valid_mask
from sewkit.model import SpeechModel
from sewkit.model.heads import MLPHead
from sewkit.model.model import Masks
from sewkit.objectives.loss import Loss, Objective
from sewkit.objectives.masking import draw_masks, equal_masks, masked_positions
from sewkit.objectives.quantizer import GumbelQuantizer, Quantized, temperature_at
from sewkit.objectives.random import RowRandom


class ContrastiveSettings(BaseModel):
    """Everything beside the model; the defaults are SEW's, which but for the heads are those of wav2vec 2.0 base."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    heads: Literal["linear", "mlp"] = Field("mlp", description="'linear' in wav2vec 2.0, 'mlp' in SEW and SEW-D")
    mlp_size: Size = Field(4096, description="hidden width of the MLP heads")
    groups: Size = Field(2, description="code books")
    entries: Size = Field(320, description="entries of each")
    vq_dim: Size = Field(256, description="width of a quantised vector, all groups together")
    final_dim: Size = Field(256, description="width in which targets and contexts are compared")
    num_negatives: Size = Field(100, description="per masked frame, from the other masked frames of its utterance")
    logit_temperature: float = Field(0.1, gt=0)
    diversity_weight: float = Field(0.1, ge=0)
    feature_penalty_weight: float = Field(10.0, ge=0, description="0 where the extractor has layer norms")
    feature_grad_scale: float = Field(0.1, ge=0, le=1, description="on the extractor's gradients; 0 freezes it")
    temperature: tuple[float, float, float] = Field(
        (2.0, 0.5, 0.999995), description="of the Gumbel softmax: start, end, factor of an update"
    )
    dropout_features: float = Field(0.1, ge=0, lt=1, description="on the features that are quantised")

    @model_validator(mode="after")
    def _groups_share_the_vector(self) -> ContrastiveSettings:
        if self.vq_dim % self.groups:
            raise ValueError(f"vq_dim {self.vq_dim} is not a multiple of groups {self.groups}")
        return self


class Draws(NamedTuple):
    """All that is random about a batch, apart from dropout."""

    masks: Masks
    """`time` (B, T) has M masked frames in every row."""
    negatives: Tensor
    """(B, M, N) int64 in [0, M): masked frames of the same utterance, by number."""
    noise: Tensor | None
    """(B, M, G, V) Gumbel noise, or None to choose the most likely code words."""


class Contrastive(Objective):
    """A model with what pre-training adds to it: quantiser and two heads, all dropped afterwards."""

    def __init__(self, model: SpeechModel, settings: ContrastiveSettings):
        super().__init__()
        feature_size, hidden_size = model.config.feature_size, model.config.hidden_size
        self.settings = settings
        self.model = model
        self.feature_dropout = nn.Dropout(settings.dropout_features)
        self.quantizer = GumbelQuantizer(feature_size, settings.groups, settings.entries, settings.vq_dim)
        self.target_head = _build_head(settings, settings.vq_dim)
        self.context_head = _build_head(settings, hidden_size)

    def forward(self, batch: Batch, update: int) -> Loss:
        """The loss of a batch, summed over its masked frames; `update` sets the Gumbel temperature.

        Its metrics `contrastive`, `diversity` and `feature_penalty` are shares of a frame's loss, weights included.
        In training every process must call this equally often, if need be with a batch of no rows: batch norm and
        perplexity are of all of them. Split among processes, a batch of equally long rows whose `time_mask` was made
        equal over all of them gives the sums that it gives in one.
        Raises UserError for an utterance of fewer than three frames.
        """
        features, frame_lengths = self.extract(batch)
        draws = self.draw(batch, frame_lengths, features.shape[1])
        temperature = temperature_at(update, self.settings.temperature)
        return self.score(features, frame_lengths, draws, temperature, batch.compute)

    def extract(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, T, C) features, not yet normed and with scaled gradients, and (B,) frames."""
        scale = self.settings.feature_grad_scale
        with torch.set_grad_enabled(torch.is_grad_enabled() and scale > 0):
            features, frame_lengths = self.model.extract(batch.waveforms, batch.sample_lengths, batch.compute)
        return _ScaledGradient.apply(features, scale), frame_lengths

    def draw(self, batch: Batch, frame_lengths: Tensor, num_frames: int) -> Draws:
        """What is random about a batch, from `batch.seeds`; the time mask is the batch's own if it brings one."""
        random, settings, config = RowRandom(batch.seeds), self.settings, self.model.config
        masks = draw_masks(config.masking, frame_lengths, num_frames, config.hidden_size, random)
        time = masks.time if batch.time_mask is None else batch.time_mask
        if time is None:
            raise UserError("pre-training needs masks: expected masking.time_prob above 0, found 0; 0.65 is usual")
        time = equal_masks(time, random)
        # Becomes a shape: the one place where the host waits for the device.
        num_masked = int(time.sum()) // max(len(time), 1)
        if len(time) and num_masked < 2:
            raise UserError(
                f"a batch has an utterance of {int(frame_lengths.min())} frames: expected at least 3, so that two can "
                "be masked; leave out clips under 0.1 s"
            )
        negatives = draw_negatives(random, num_masked, settings.num_negatives)
        noise = random.gumbel(num_masked, settings.groups, settings.entries) if self.training else None
        return Draws(masks._replace(time=time), negatives, noise)

    def score(
        self,
        features: Tensor,
        frame_lengths: Tensor,
        draws: Draws,
        temperature: float,
        compute: Compute | None = None,
    ) -> Loss:
        """The loss of (B, T, C) features from `extract`, given all that is random and the Gumbel temperature."""
        context, targets, quantized = self.predict(features, frame_lengths, draws, temperature, compute)
        logits = contrastive_logits(context, targets, quantized.codes, draws.negatives, self.settings.logit_temperature)
        count = logits.shape[0] * logits.shape[1]
        parts = {
            "contrastive": _mean(logits.logsumexp(dim=-1) - logits[..., 0]),
            "diversity": self.settings.diversity_weight * self._unused_share(quantized),
            "feature_penalty": self.settings.feature_penalty_weight * _mean(mean_squares(features, frame_lengths)),
        }
        metrics = {
            **parts,
            **similarity_metrics(logits, self.settings.logit_temperature),
            "prob_perplexity": quantized.prob_perplexity,
            "code_perplexity": quantized.code_perplexity,
            "temperature": logits.new_tensor(temperature),
        }
        total = torch.stack(list(parts.values())).sum() * count
        return Loss(total, count, {name: value.detach() for name, value in metrics.items()})

    def predict(
        self,
        features: Tensor,
        frame_lengths: Tensor,
        draws: Draws,
        temperature: float,
        compute: Compute | None = None,
    ) -> tuple[Tensor, Tensor, Quantized]:
        """Context and targets of the masked frames, (B, M, final_dim) each, and what the quantiser made of them."""
        assert draws.masks.time is not None
        positions = masked_positions(draws.masks.time, draws.negatives.shape[1])
        normed = self.model.feature_norm(features)
        encoded = self.model.contextualize(normed, frame_lengths, compute, draws.masks)
        quantized = self.quantizer(self.feature_dropout(take_frames(normed, positions)), temperature, draws.noise)
        targets = self.target_head(quantized.vectors)
        return self.context_head(take_frames(encoded.frames, positions)), targets, quantized

    def heads(self) -> PretrainingHeads:
        """Quantiser and heads with their settings, for `save_heads`."""
        tensors = {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}
        return PretrainingHeads(self.settings.model_dump(mode="json"), tensors)

    def load_heads(self, tensors: Mapping[str, Tensor], source: object) -> None:
        """Take these weights of quantiser and heads, from `source`; the model keeps its own.

        Raises CheckpointError unless they are exactly those that this module has.
        """
        check_fit({name: tuple(value.shape) for name, value in self.heads().tensors.items()}, tensors, source)
        self.load_state_dict(dict(tensors), strict=False)

    def _unused_share(self, quantized: Quantized) -> Tensor:
        """(G V - perplexity) / (G V): 0 where all code words are used alike."""
        return 1 - quantized.prob_perplexity / (self.settings.groups * self.settings.entries)


def load_contrastive(source: str | os.PathLike[str], **changes: Any) -> Contrastive:
    """A pre-trained model with its quantiser, heads and settings, in evaluation mode; see `with_heads`."""
    return with_heads(load_model(source).model, source, **changes).eval()


def with_heads(model: SpeechModel, source: str | os.PathLike[str], **changes: Any) -> Contrastive:
    """A model with the quantiser, heads and settings of a pre-trained one; `changes` are fields of the settings.

    source: see `sewkit.checkpoint.pretraining.read_heads`. Raises CheckpointError.
    """
    heads = read_heads(source)
    with blaming(source):
        settings = ContrastiveSettings(**{**heads.settings, **changes})
    contrastive = Contrastive(model, settings)
    contrastive.load_heads(heads.tensors, source)
    return contrastive


def _build_head(settings: ContrastiveSettings, in_size: int) -> nn.Module:
    if settings.heads == "linear":
        return nn.Linear(in_size, settings.final_dim)
    return MLPHead(in_size, settings.mlp_size, settings.final_dim)


class _ScaledGradient(torch.autograd.Function):
    """The identity, with its gradient multiplied."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.scale, None


def take_frames(x: Tensor, positions: Tensor) -> Tensor:
    """(B, T, C), (B, M) -> (B, M, C)."""
    return x.gather(1, positions[:, :, None].expand(-1, -1, x.shape[2]))


def _mean(x: Tensor) -> Tensor:
    """Scalar; 0 of a batch without rows, not NaN."""
    return x.sum() / max(x.numel(), 1)


def mean_squares(features: Tensor, lengths: Tensor) -> Tensor:
    """(B, T, C) -> (B,) float32, the mean of the squares of each row's valid frames."""
    valid = valid_mask(lengths, features.shape[1])[:, :, None]
    sums = features.float().masked_fill(~valid, 0.0).square().sum(dim=(1, 2))
    return sums / (lengths.clamp(min=1) * features.shape[2])


def draw_negatives(random: RowRandom, num_masked: int, num_negatives: int) -> Tensor:
    """(B, M, N) int64, uniform over the M - 1 other masked frames of a row."""
    drawn = random.integers(num_masked - 1, num_masked, num_negatives)
    own = torch.arange(num_masked, device=drawn.device)[:, None]
    return drawn + (drawn >= own)


def contrastive_logits(
    context: Tensor, targets: Tensor, codes: Tensor, negatives: Tensor, temperature: float
) -> Tensor:
    """(B, M, D) twice, codes (B, M, G), negatives (B, M, N) -> (B, M, 1 + N) float32, the positive first.

    Cosine over temperature. A negative of the same code words as the positive is no negative: it gets -inf. All pairs
    of a row are compared in one product, (B, M, M), and the negatives looked up there.
    """
    with torch.autocast(context.device.type, enabled=False):
        context, targets = (F.normalize(x.float(), dim=-1, eps=1e-8) for x in (context, targets))
        similarities = context @ targets.transpose(1, 2) / temperature
    same = (codes[:, :, None] == codes[:, None]).all(dim=-1)
    positive = similarities.diagonal(dim1=1, dim2=2)[:, :, None]
    negative = similarities.masked_fill(same, -torch.inf).gather(2, negatives)
    return torch.cat([positive, negative], dim=2)


@torch.no_grad()
def similarity_metrics(logits: Tensor, temperature: float) -> dict[str, Tensor]:
    """(B, M, 1 + N) -> the share of frames whose positive is ahead of all negatives, and mean cosines of both kinds."""
    ahead = (logits.argmax(dim=-1) == 0) & (logits.argmin(dim=-1) != 0)  # all alike is no success
    finite = logits[..., 1:].isfinite()
    negative = logits[..., 1:].masked_fill(~finite, 0.0).sum(dim=-1) / finite.sum(dim=-1).clamp(min=1)
    return {
        "accuracy": _mean(ahead.float()),
        "positive_similarity": _mean(logits[..., 0]) * temperature,
        "negative_similarity": _mean(negative) * temperature,
    }

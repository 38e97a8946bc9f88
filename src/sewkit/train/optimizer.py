"""From summed gradients to new weights: scaling and clipping, Adam, the moving average."""

import math

import torch
from torch import Tensor, nn

from sewkit.collective import num_processes


def build_optimizer(
    parameters: list[nn.Parameter],
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay_all: bool = False,
) -> torch.optim.AdamW:
    """Adam with decoupled weight decay, on matrices only unless `decay_all`; the learning rate is set at each update.

    fairseq's Adam is the same but for eps, which it adds to sqrt(v) before the bias correction: there eps counts
    1 / sqrt(1 - beta2^t) times as much, 7 times in the first update, 1.07 times in the hundredth. It shows where
    gradients are near eps in the first updates, when the learning rate is near 0. torch's has fused kernels.
    """
    decayed = [p for p in parameters if decay_all or p.ndim > 1]
    others = [p for p in parameters if not (decay_all or p.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, betas=betas, eps=eps, fused=True)


@torch.no_grad()
def scale_and_clip(parameters: list[nn.Parameter], count: Tensor, clip_norm: float) -> Tensor:
    """From gradients of sums, averaged over processes, to those of the mean over `count`, a scalar.

    Gradients of a norm above `clip_norm` (0: none) are scaled down to it. Returns the norm before, a scalar; it is not
    finite where a gradient is not.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros_like(count)
    torch._foreach_mul_(gradients, num_processes() / count.clamp(min=1.0))
    return nn.utils.clip_grad_norm_(parameters, clip_norm or math.inf)


@torch.no_grad()
def move_average(average: dict[str, Tensor], weights: dict[str, Tensor], decay: float, num_averaged: int) -> None:
    """Move the average, a copy of the weights at first, towards them.

    Faster than `decay` says in the first of `num_averaged` updates, so that it does not remember the random ones.
    """
    decay = min(decay, (1 + num_averaged) / (10 + num_averaged))
    for name, value in weights.items():
        if name not in average or not value.is_floating_point():
            average[name] = value.clone()
        else:
            average[name].lerp_(value, 1 - decay)

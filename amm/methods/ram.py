"""Reinforced Agent Merging, RAM and RAM+ (arXiv 2601.13572), for experts of reinforcement learning.

An entry of expert i counts as changed where |τ_i| > threshold. Entry by entry              [C]

    changed by two or more   τ = the mean of theirs
    changed by j alone       τ = ρ_j τ_j,   ρ_j = 1 + (boost − 1) · min(1, overlap_j / unique_j)
    changed by none          τ = 0

where overlap_j and unique_j count, in the tensor, the entries that j changed with others and alone.
RAM has boost 1, RAM+ 1.2 [C]. The threshold is absolute, 1e-5, as published [C]: it needs fp32
weights, and small deltas fall below it. `relative` counts it in units of the RMS of the entries of
all experts that moved the tensor, so that scaling the experts scales the merge [ours].
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from amm.loops import kernel
from amm.methods.registry import Blocks, Kernel, Place, register
from amm.settings import Settings


class RamSettings(Settings):
    """Settings of RAM.

    Attributes:
        threshold: above this an entry counts as changed [C].
        relative: the threshold is in units of the tensor's common RMS [ours].
        boost: r; 1 is RAM, 1.2 RAM+ [C].
        scale: W = W_0 + scale · τ.
    """

    threshold: float = Field(1e-5, ge=0)
    relative: bool = False
    boost: float = Field(1.0, ge=1)
    scale: float = 1.0


@dataclass(frozen=True)
class Shares:
    """What RAM knows of a whole tensor.

    Attributes:
        threshold: in units of the weights.
        factors: ρ_j, K.
    """

    threshold: float
    factors: tuple[float, ...]


def shares(blocks: Blocks, settings: RamSettings) -> Shares:
    """Threshold and factors of a tensor.

    Args:
        blocks: of the tensor; float32 or float64.
        settings: see `RamSettings`.
    """
    threshold = settings.threshold
    if settings.relative:
        squares, entries = torch.zeros(blocks.experts, dtype=torch.float64), 0
        for block in blocks():
            squares += block.reshape(blocks.experts, -1).double().square().sum(dim=1)
            entries += block[0].numel()
        threshold *= (squares[squares > 0].mean().nan_to_num() / entries).sqrt().item()
    if settings.boost == 1:
        return Shares(threshold, (1.0,) * blocks.experts)
    overlap = torch.zeros(blocks.experts, dtype=torch.float64)
    unique = torch.zeros_like(overlap)
    for block in blocks():
        changed = (block.abs() > threshold).reshape(blocks.experts, -1)
        alone = changed & (changed.sum(dim=0) == 1)
        unique += alone.sum(dim=1)
        overlap += (changed & ~alone).sum(dim=1)
    ratios = torch.where(overlap > 0, overlap / unique, 0.0).clamp(max=1)  # overlap / 0 is 1
    return Shares(threshold, tuple((1 + (settings.boost - 1) * ratios).tolist()))


@kernel
def changed_mean(vectors: npt.NDArray, parameters: npt.NDArray, tau: npt.NDArray) -> None:
    """The mean of the changed entries, or the only one times its factor; 0 where none is.

    The parameters are the scale, the threshold, and K factors.
    """
    zero, one = tau.dtype.type(0), tau.dtype.type(1)
    scale, threshold = tau.dtype.type(parameters[0]), tau.dtype.type(parameters[1])
    size = len(tau)
    count, alone = np.zeros(size, tau.dtype), np.zeros(size, tau.dtype)
    for j in range(size):
        tau[j] = zero
    for k in range(len(vectors)):
        vector, factor = vectors[k, :size], tau.dtype.type(parameters[2 + k])
        for j in range(size):
            changed = abs(vector[j]) > threshold
            tau[j] += vector[j] if changed else zero
            count[j] += one if changed else zero
            alone[j] += factor * vector[j] if changed else zero
    for j in range(size):
        tau[j] = scale * (alone[j] if count[j] == one else tau[j] / max(count[j], one))


@register(
    "ram",
    settings=RamSettings,
    tensors="all",
    elementwise=True,
    place=True,
    statistics=shares,
    kernel=Kernel(
        changed_mean,
        lambda settings, experts, found: (settings.scale, found.threshold, *found.factors),
    ),
)
def ram(task_vectors: Tensor, settings: RamSettings, place: Place) -> Tensor:
    """K × a block's shape → scale · τ, that shape: what one expert changed alone is boosted.

    `place.statistics`: the `Shares` of the whole tensor.
    """
    found: Shares = place.statistics
    changed = torch.where(task_vectors.abs() > found.threshold, task_vectors, 0)
    count = (changed != 0).sum(dim=0)
    factors = torch.tensor(found.factors, dtype=changed.dtype, device=changed.device)
    alone = functools.reduce(torch.add, (f * x for f, x in zip(factors, changed, strict=True)))
    mean = functools.reduce(torch.add, changed) / count.clamp_min(1)
    return settings.scale * torch.where(count == 1, alone, mean)

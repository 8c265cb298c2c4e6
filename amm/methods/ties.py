"""TIES-Merging (arXiv 2306.01708): trim, elect signs, average what agrees.

    trim    of each τ_i keep the largest entries by magnitude, the share `density`            [V]
    elect   γ = sign(Σ_i τ_i) of what was kept, entry by entry                               [V]
    mean    τ = the mean of the kept entries whose sign is γ                                 [V]
    W = W_0 + scale · τ

Trimming is per tensor, as in mergekit; the paper's is per model. Entries as large as the last one
kept are kept as well, as in the authors' code [V], so that the result doesn't depend on an order;
at least one entry is kept [ours]. Where the kept entries cancel exactly γ is 0 and so is τ [V];
mergekit takes + there.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from amm.methods.registry import Blocks, Place, register
from amm.settings import Settings

_DIGIT = 16


class TiesSettings(Settings):
    """Settings of TIES.

    Attributes:
        density: share of each task vector's entries that is kept [V].
        scale: W = W_0 + scale · τ; the paper's λ without held-out data [V].
    """

    density: float = Field(0.2, gt=0, le=1)
    scale: float = 1.0


def thresholds(blocks: Blocks, settings: TiesSettings) -> Tensor:
    """For each expert the magnitude of the smallest entry that is kept: the ⌊density·n⌋-th largest.

    Exact, and in memory for one block: a radix select over the bit patterns of the magnitudes,
    whose order is that of the numbers; 16 bits, and one pass over the tensor, at a time.

    Args:
        blocks: starts a stream of K × block task vectors, float32 or float64.
        settings: the density.

    Returns:
        K magnitudes, in the dtype and on the device of the blocks.
    """
    first = next(blocks())
    integers = torch.int32 if first.dtype == torch.float32 else torch.int64
    chosen = torch.zeros(len(first), dtype=integers, device=first.device)
    left: Tensor | None = None
    for shift in range(8 * first.dtype.itemsize - _DIGIT, -1, -_DIGIT):
        counts = torch.zeros(len(first), 2**_DIGIT, dtype=torch.int64, device=first.device)
        for block in blocks():
            for vector, prefix, count in zip(block, chosen, counts, strict=True):
                bits = vector.abs().flatten().view(integers) >> shift
                if left is not None:
                    bits = bits[bits >> _DIGIT == prefix]
                count += torch.bincount(bits & 2**_DIGIT - 1, minlength=2**_DIGIT)
        if left is None:
            left = (settings.density * counts.sum(dim=1)).long().clamp_min(1)
        at_least = counts.flip(1).cumsum(1).flip(1)
        digit = ((at_least >= left[:, None]).sum(dim=1) - 1).clamp_min(0)
        left = left - (at_least - counts).gather(1, digit[:, None])[:, 0]
        chosen = (chosen << _DIGIT) + digit.to(integers)
    return chosen.view(first.dtype)


@register(
    "ties",
    settings=TiesSettings,
    tensors="all",
    elementwise=True,
    place=True,
    statistics=thresholds,
)
def ties(task_vectors: Tensor, settings: TiesSettings, place: Place) -> Tensor:
    """TIES: trim each task vector, elect a sign for each entry, average what has that sign.

    Args:
        task_vectors: K × the block's shape, τ_i = W_i − W_0, float32 or float64.
        settings: see `TiesSettings`.
        place: its `statistics` are the K `thresholds` of the whole tensor.

    Returns:
        scale · τ, the block's shape.
    """
    smallest = place.statistics.view(-1, *[1] * (task_vectors.dim() - 1))
    kept = torch.where(task_vectors.abs() >= smallest, task_vectors, 0)
    return settings.scale * disjoint_mean(kept)


def disjoint_mean(vectors: Tensor) -> Tensor:
    """Entry by entry, the mean of those that have the sign of the sum.

    Args:
        vectors: K × any shape.

    Returns:
        That shape; 0 where the sum is.
    """
    sign = vectors.sum(dim=0, dtype=torch.float64).sign().to(vectors.dtype)
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for vector in vectors:
        agrees = vector * sign > 0
        total += torch.where(agrees, vector, 0)
        count += agrees
    return total / count.clamp_min(1)

"""SCE (FuseChat, arXiv 2408.07990): select, calculate, erase.

    select      the entries whose variance over the experts is largest, the share `density` of
                those whose variance isn't 0                                                 [V]
    calculate   w_i = Σ τ_i² / Σ_j Σ τ_j² over what was selected of the tensor               [V]
    erase       of each entry the values that don't have the sign of their sum               [V]
    τ = Σ w_i τ_i / Σ w_i over what is left, entry by entry

The last line, where the paper's weights of an entry would add up to less than 1, is mergekit's.
Entries whose variance equals the last one selected are selected too [ours]. Where all experts are
equal, everything is selected [ours]; mergekit selects nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from amm.loops import Loop, visit
from amm.methods.registry import Blocks, Place, register
from amm.methods.ties import TiesSettings, thresholds
from amm.settings import Settings


class SceSettings(Settings):
    """Settings of SCE.

    Attributes:
        density: share of the entries that is selected; the paper takes 0.1 [V], mergekit 1.
        scale: W = W_0 + scale · τ.
    """

    density: float = Field(0.1, gt=0, le=1)
    scale: float = 1.0


@dataclass(frozen=True)
class Selection:
    """What SCE knows of a whole tensor.

    Attributes:
        variance: entries from this one on are selected.
        weights: w_i, K.
    """

    variance: float
    weights: tuple[float, ...]


def variances(vectors: Tensor) -> Tensor:
    """Variance over the experts, entry by entry; float64: squares of float32 would underflow."""
    return vectors.double().var(dim=0, correction=0)


class _Variances:
    """`Blocks` of one vector: the variances."""

    experts = 1

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = blocks
        self.largest = blocks.largest

    def __call__(self, every: int = 1) -> Iterator[Tensor]:
        return (variances(block)[None] for block in self._blocks(every))

    def visit(self, visitor: Loop, *keeps: npt.NDArray) -> Iterator[int]:
        for block in self():
            flat = block.flatten().numpy()
            visit(visitor, (np.zeros_like(flat), flat), [1.0], keeps)
            yield len(flat)


def select(blocks: Blocks, settings: SceSettings) -> Selection:
    """The selection of a tensor, and its experts' weights.

    Args:
        blocks: of the tensor; float32 or float64.
        settings: the density.
    """
    varied, entries = 0, 0
    for variance in _Variances(blocks)():
        varied += int(variance.count_nonzero())
        entries += variance.numel()
    least = 0.0
    if varied and settings.density < 1:
        share = TiesSettings(density=settings.density * varied / entries)
        least = thresholds(_Variances(blocks), share).item()
    squares = torch.zeros(blocks.experts, dtype=torch.float64)
    for block in blocks():
        kept = torch.where(variances(block) >= least, block.double(), 0)
        squares += kept.reshape(blocks.experts, -1).square().sum(dim=1)
    return Selection(least, tuple((squares / squares.sum()).nan_to_num().tolist()))


@register(
    "sce", settings=SceSettings, tensors="all", elementwise=True, place=True, statistics=select
)
def sce(task_vectors: Tensor, settings: SceSettings, place: Place) -> Tensor:
    """K × a block's shape on the CPU → scale · τ, that shape: select, calculate, erase.

    `place.statistics`: the `Selection` of the whole tensor.
    """
    found: Selection = place.statistics
    vectors = torch.where(variances(task_vectors) >= found.variance, task_vectors.double(), 0)
    agrees = vectors * vectors.sum(dim=0).sign() > 0
    weights = torch.tensor(found.weights, dtype=torch.float64)
    left = agrees * weights.view(-1, *[1] * (vectors.dim() - 1))
    mean = (left * vectors).sum(dim=0) / left.sum(dim=0)
    return (settings.scale * mean.nan_to_num()).to(task_vectors.dtype)

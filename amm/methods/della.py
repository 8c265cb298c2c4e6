"""DELLA (arXiv 2406.11617): drop entries at random, small ones more often than large ones.

    rank    r = 0 … n − 1 of each |τ_i| within its row, from the smallest                    [V]
    keep    p = 1 − drop + window · (r/(n − 1) − ½)                                          [V]
    δ_i = m_i ⊙ τ_i / p,   m_i ~ Bernoulli(p)                                                [V]
    then    as with DARE: elected signs and disjoint mean of the δ_i [V], or their sum
    W = W_0 + scale · τ

mergekit's `della` and `della_linear` have half the window as `epsilon`, and rescale what is left of
each task vector to its norm instead of each entry by its own p; the authors' code, whose formula
this is, divides by p. A row is the last dimension, of a stack of matrices too; a vector is one row.
Where n = 1, p is 1 − drop [ours].

The dice are DARE's: see `amm.methods.dare`.
"""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor

from amm.methods.dare import Then, drawn, merged
from amm.methods.registry import Blocks, Place, register
from amm.settings import Settings


class DellaSettings(Settings):
    """Settings of DELLA; the defaults of the first two are those of its authors' example [V].

    Attributes:
        drop: mean share of the entries that is dropped.
        window: the smallest entry of a row is dropped with a probability that is larger by this
            than the largest one's.
        then: how the rest is merged.
        scale: W = W_0 + scale · τ.
        seed: of the drop.
    """

    drop: float = Field(0.3, gt=0, lt=1)
    window: float = Field(0.14, ge=0, lt=1)
    then: Then = "ties"
    scale: float = 1.0
    seed: int = 0

    @model_validator(mode="after")
    def _are_probabilities(self) -> DellaSettings:
        if not 0 <= self.drop - self.window / 2 <= self.drop + self.window / 2 < 1:
            raise ValueError("drop − window/2 and drop + window/2 must lie in [0, 1)")
        return self


def keep_chances(vectors: Tensor, settings: DellaSettings) -> Tensor:
    """p of each entry.

    Args:
        vectors: K × … × n, rows along the last dimension.
        settings: drop and window.

    Returns:
        That shape, float64.
    """
    length = vectors.shape[-1]
    ranks = vectors.abs().argsort(dim=-1, stable=True).argsort(dim=-1).double()
    offset = ranks / (length - 1) - 0.5 if length > 1 else 0 * ranks
    return 1 - settings.drop + settings.window * offset


def of_a_vector(blocks: Blocks, settings: DellaSettings) -> Tensor | None:
    """p of each entry of a vector, whose one row may be cut into blocks; None of other tensors."""
    if next(iter(blocks())).dim() != 2:
        return None
    return keep_chances(torch.cat(list(blocks()), dim=1), settings)


@register(
    "della",
    settings=DellaSettings,
    tensors="all",
    elementwise=True,
    place=True,
    statistics=of_a_vector,
)
def della(task_vectors: Tensor, settings: DellaSettings, place: Place) -> Tensor:
    """K × a block's shape → scale · τ, that shape: drop by the dice of `place`, and merge.

    `place.statistics`: p `of_a_vector`.
    """
    thinned = torch.empty_like(task_vectors)
    for expert, vector in enumerate(task_vectors):
        if place.statistics is None:
            chances = keep_chances(vector[None] if not vector.dim() else vector, settings)
        else:
            chances = place.statistics[expert, place.start :][: vector.numel()]
        keep = drawn(settings.seed, place, expert, vector, 1 - chances)
        thinned[expert] = torch.where(keep, vector / chances.view(vector.shape), 0)
    return merged(thinned, settings.then, settings.scale)

"""OptMerge (arXiv 2505.19892): WUDI's loss on low-rank task vectors, from their mean, by SGD.

    T_i      = τ_i truncated by SVD to rank ⌊min(out, in)/K⌋
    minimise   Σ_i ‖(τ − T_i) T_iᵀ‖²_F / ‖τ_i‖²_F   from   τ = (1/K) Σ τ_i,
    SGD, lr 1e-4, momentum 0.9, 300 steps;   W = W_0 + scale · τ

Read in the authors' code for Qwen2-VL [V]: the rank, the untruncated norms and start, optimiser and
steps; scale 1 unless searched; everything but the language model's linear layers left as in the
base. Their code for InternVL differs (Adam from the sum, T_i from τ_i minus the mean, scale 0.1)
and isn't here. A rank of 0 (K > min(out, in)) is taken as 1, and linear layers of a vision tower
are merged like any other [ours].

SGD with momentum on a quadratic loss multiplies the distance along each eigenvector of
C = Σ T_iᵀT_i/‖τ_i‖² by a number that a scalar recursion gives, so one eigendecomposition replaces
the 300 steps [D]. With the published lr it travels about 2λ · 0.3 of the way along an eigenvector
of eigenvalue λ, and Σλ ≤ K: the result is close to the mean of the task vectors [D].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from pydantic import Field
from torch import Tensor

from amm.methods.closed_form import filtered, memory, shared_rank, thin_svd, travel
from amm.methods.linear import LinearSettings, register_linear
from amm.methods.registry import OtherTensors


class OptMergeSettings(LinearSettings):
    """Settings of OptMerge.

    Attributes:
        steps: SGD steps [V].
        lr: SGD's step [V]. The gradient is linear in the size of the deltas, so it means the same
            for all.
        momentum: SGD's momentum [V].
        scale: the paper searches 0.1 … 1.5 [V].
        other_tensors: `base` as published [V].
    """

    steps: int = Field(300, ge=0)
    lr: float = Field(1e-4, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    other_tensors: OtherTensors = "base"


@register_linear("optmerge", settings=OptMergeSettings, memory=memory)
def optmerge(vectors: Tensor, settings: OptMergeSettings) -> Tensor:
    """K × out × in → out × in, float64: SGD on the loss of the truncated vectors, from the mean."""
    rank = shared_rank(vectors)
    start = vectors.mean(dim=0, dtype=torch.float64)

    def terms() -> Iterable[tuple[Tensor, Tensor]]:
        for vector in vectors:
            vector = vector.double()
            _, s, vh = thin_svd(vector, rank)
            yield vector - start, s[:, None] * vh / vector.norm()

    away = travel(terms(), (len(vectors) * rank, vectors.shape[2]), filtered(_sgd(settings)))
    return start + away


def _sgd(settings: OptMergeSettings) -> Callable[[Tensor], Tensor]:
    """λ ↦ how far SGD gets from 0 on λy² − 2y, whose minimum is at 1/λ."""

    def travelled(values: Tensor) -> Tensor:
        at, velocity = torch.zeros_like(values), torch.zeros_like(values)
        for _ in range(settings.steps):
            velocity = settings.momentum * velocity + 2 * (values * at - 1)
            at = at - settings.lr * velocity
        return at

    return travelled

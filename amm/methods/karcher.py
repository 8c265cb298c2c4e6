"""Karcher mean: the mean of the experts' weights on the sphere, tensor by tensor.

    minimise  Σ_i ∠(u, W_i/‖W_i‖)²  over ‖u‖ = 1,   W = (1/K) Σ ‖W_i‖ · u                     [V]

by the usual fixed point (Karcher, 1977): average the tangents to the W_i at u, follow their mean,
from the normalised sum on. The length is mergekit's. u is a combination of the W_i, so that all
steps are taken on K coefficients. Experts whose tensor is zero count in the length alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amm.methods.combination import from_weights, of_weights, register_combination
from amm.settings import Settings

TOLERANCE = 1e-12
STEPS = 100


@register_combination("karcher", Settings)
def karcher(products: Tensor, settings: Settings) -> Tensor:
    """(1 + K)² → 1 + K, as `Coefficients`: the Karcher mean of the experts' weights."""
    inner = of_weights(products)[1:, 1:]
    norms = inner.diagonal().clamp_min(0).sqrt()
    there = norms > 0
    inverse = torch.where(there, 1 / norms, 0.0)
    unit = inner * inverse[:, None] * inverse  # ⟨u_i, u_j⟩
    weights = there / there.sum().clamp_min(1)

    def length(a: Tensor) -> Tensor:
        return (a @ unit @ a).clamp_min(0).sqrt()

    u = weights.to(products)
    u = u / length(u) if length(u) > TOLERANCE else first_of(there).to(products)
    for _ in range(STEPS if there.any() else 0):
        cosines = (unit @ u).clamp(-1, 1)
        angles = cosines.arccos()
        pull = weights * torch.where(angles > TOLERANCE, angles / angles.sin(), 0.0)
        tangent = pull - (pull @ cosines) * u
        step = length(tangent)
        if step < TOLERANCE:
            break
        u = step.cos() * u + step.sin() / step * tangent
        u = u / length(u)
    return from_weights(torch.cat([torch.zeros(1), norms.mean() * u * inverse]).to(products))


def first_of(there: Tensor) -> Tensor:
    """1 at the first that is there, 0 elsewhere."""
    return torch.nn.functional.one_hot(there.int().argmax(), len(there))

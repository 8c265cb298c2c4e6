"""Spectral WUDI: the early-stopped way down WUDI's loss in closed form.

WUDI's loss (arXiv 2503.08099) is quadratic. Gradient flow from τ⁰ = Σ τ_i, dτ/dt = −½ ∂L/∂τ, is

    τ(t) = τ⁰ + (τ* − τ⁰) V diag(1 − exp(−λt)) Vᵀ,   C = Σ τ_iᵀτ_i/‖τ_i‖² = V diag(λ) Vᵀ    [D]

with τ* = (Σ τ_iτ_iᵀτ_i/‖τ_i‖²) C⁺ the solution nearest to τ⁰. The filter, the start and the
horizon t = 300 are those of the soft filter in the code of WUDI's and OptMerge's authors [V]; their
SWUDI adds a hard limit on the rank, which isn't here. ASWUDI's (arXiv 2606.07289) has no knob: the
k = (Σ√λ)²/Σλ largest eigenvalues take part [C], rounded down [ours].
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from amm.methods.closed_form import filtered, memory, norm_factors, travel
from amm.methods.linear import LinearSettings, register_linear


class WudiSpectralSettings(LinearSettings):
    """Settings of spectral WUDI.

    Attributes:
        time: the horizon t [V]. Directions with λ above 1/t are solved, those below are left; λ
            is K/in on average, whatever the size of the deltas [D]. 0 is the sum of the task
            vectors, a very large t the exact solution nearest to it.
        rank: of C: `full`, or `effective`, which is ASWUDI's [C].
    """

    time: float = Field(300.0, ge=0)
    rank: Literal["full", "effective"] = "full"


@register_linear("wudi_spectral", settings=WudiSpectralSettings, memory=memory)
def wudi_spectral(vectors: Tensor, settings: WudiSpectralSettings) -> Tensor:
    """K × out × in → out × in, float64: gradient flow to the horizon, by one eigendecomposition."""
    count, rows, columns = vectors.shape
    start = vectors.sum(dim=0, dtype=torch.float64)
    away = travel(
        norm_factors(vectors, start),
        (count * rows, columns),
        filtered(lambda values: _taken(values, settings.rank, settings.time)),
    )
    return start + away


def _taken(values: Tensor, rank: str, time: float) -> Tensor:
    """(1 − exp(−λt))/λ; with the effective rank 0 of all but the k largest."""
    factors = -torch.expm1(-time * values) / values
    if rank == "effective":
        effective = int(values.sqrt().sum() ** 2 / values.sum())
        factors[: len(values) - effective] = 0
    return factors

"""Spectral WUDI: the early-stopped way down WUDI's loss in closed form.

WUDI's loss (arXiv 2503.08099) is quadratic. Gradient flow from τ⁰ = Σ τ_i, dτ/dt = −½ ∂L/∂τ, is

    τ(t) = τ⁰ + (τ* − τ⁰) V diag(1 − exp(−λt)) Vᵀ,   C = Σ τ_iᵀτ_i/‖τ_i‖² = V diag(λ) Vᵀ    [D]

with τ* = (Σ τ_iτ_iᵀτ_i/‖τ_i‖²) C⁺ the solution nearest to τ⁰. The filter, the start and the
horizon t = 300 are those of the soft filter in the code of WUDI's and OptMerge's authors [V]; their
SWUDI adds a hard limit on the rank, which isn't here.
"""

from __future__ import annotations

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
    """

    time: float = Field(300.0, ge=0)


@register_linear("wudi_spectral", settings=WudiSpectralSettings, memory=memory)
def wudi_spectral(vectors: Tensor, settings: WudiSpectralSettings) -> Tensor:
    """Spectral WUDI: gradient flow on WUDI's loss up to a horizon, by one eigendecomposition.

    Args:
        vectors: τ_i = W_i − W_0, K × out × in, float32 or float64, none zero.
        settings: see `WudiSpectralSettings`.

    Returns:
        τ, out × in, float64.
    """
    count, rows, columns = vectors.shape
    start = vectors.sum(dim=0, dtype=torch.float64)
    away = travel(
        norm_factors(vectors, start),
        (count * rows, columns),
        filtered(lambda values: -torch.expm1(-settings.time * values) / values),
    )
    return start + away

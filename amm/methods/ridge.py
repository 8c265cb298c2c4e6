"""Ridge WUDI: WUDI's loss plus a pull towards an anchor, solved exactly.

    minimise   Σ_i ‖(τ − τ_i) τ_iᵀ‖²_F/‖τ_i‖²_F + a ‖τ − θ₀‖²_F
    τ = (D + aθ₀)(C + aI)⁻¹,   C = Σ τ_iᵀτ_i/‖τ_i‖²,   D = Σ τ_iτ_iᵀτ_i/‖τ_i‖²            [D]

One Cholesky factorisation for each layer. As the filter λ/(λ + a) it is an option in the code of
WUDI's and OptMerge's authors, with a = 0.01 and θ₀ = Σ τ_i [V].
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from amm.errors import InputError
from amm.methods.closed_form import memory, norm_factors, travel
from amm.methods.linear import LinearSettings, register_linear


class RidgeSettings(LinearSettings):
    """Settings of ridge WUDI.

    Attributes:
        a: weight of the anchor, beside eigenvalues of C that are K/in on average, whatever the
            size of the deltas [D]. Default [V].
        anchor: θ₀: the `sum` of the task vectors [V], their `mean`, or `zero` (the base).
    """

    a: float = Field(0.01, gt=0)
    anchor: Literal["sum", "mean", "zero"] = "sum"


@register_linear("ridge", settings=RidgeSettings, memory=memory)
def ridge(vectors: Tensor, settings: RidgeSettings) -> Tensor:
    """K × out × in → out × in, float64: WUDI's loss and the pull minimised, by one Cholesky.

    Raises:
        InputError: `a` is so small that rounding makes C + aI singular.
    """
    count, rows, columns = vectors.shape
    share = {"sum": 1.0, "mean": 1 / count, "zero": 0.0}[settings.anchor]
    anchor = share * vectors.sum(dim=0, dtype=torch.float64)

    def solve(x: Tensor, matrix: Tensor) -> Tensor:
        matrix.diagonal().add_(settings.a)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        pivots = factor.diagonal().square()
        if failed or pivots.min() < len(pivots) * torch.finfo(pivots.dtype).eps * pivots.max():
            raise InputError(
                f"ridge: a = {settings.a} is too small for these task vectors; take 1e-9 or more."
            )
        return torch.cholesky_solve(x.T, factor).T

    away = travel(norm_factors(vectors, anchor), (count * rows, columns), solve)
    return anchor + away

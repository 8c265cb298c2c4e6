"""Iso-C (arXiv 2502.04959): task arithmetic with all singular values made equal.

    Σ τ_i = U diag(σ_1 … σ_r) Vᵀ,   τ = σ̄ U Vᵀ,   σ̄ = (1/r) Σ σ_j                            [V]

r counts the singular values that aren't within rounding of 0: beyond them U and V are arbitrary
[ours].

Its settings are those of every method of linear layers; the paper tunes the scale on held-out data
[V], 1 is our default.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amm.methods.closed_form import memory, thin_svd
from amm.methods.linear import LinearSettings, register_linear


@register_linear("iso_c", settings=LinearSettings, memory=memory)
def iso_c(vectors: Tensor, settings: LinearSettings) -> Tensor:
    """K × out × in → out × in, float64: the sum, every singular value replaced by their mean.

    Zero when the τ_i cancel.
    """
    total = vectors.sum(dim=0, dtype=torch.float64)
    if not total.any():
        return total
    u, s, vh = thin_svd(total)
    return s.mean() * u @ vh

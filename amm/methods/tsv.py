"""TSV-Merge (arXiv 2412.00081): task singular vectors, made orthogonal across the tasks.

    τ_i ≈ U_i Σ_i V_iᵀ, the ⌊min(out, in)/K⌋ largest singular values                          [V]
    U = [U_1 … U_K], V = [V_1 … V_K], Σ = diag(Σ_1 … Σ_K)
    τ = U⊥ Σ V⊥ᵀ,   X⊥ = argmin ‖X⊥ − X‖ with orthonormal columns = PQᵀ for X = PDQᵀ          [V]

Where the experts' singular vectors are dependent the nearest X⊥ isn't unique; the directions in
which X is zero (D within rounding of 0) are left out then, so equal experts give that expert's
low-rank part [ours]. Directions of singular values within rounding of 0 don't take part [ours].

Its settings are those of every method of linear layers; scale 1, and the mean of all other tensors,
are as published [V].
"""

from __future__ import annotations

import torch
from torch import Tensor

from amm.methods.closed_form import memory, shared_rank, thin_svd
from amm.methods.linear import LinearSettings, register_linear


@register_linear("tsv", settings=LinearSettings, memory=memory)
def tsv(vectors: Tensor, settings: LinearSettings) -> Tensor:
    """K × out × in → out × in, float64: leading singular vectors, orthogonal across experts."""
    rank = shared_rank(vectors)
    left, values, right = zip(*(thin_svd(v.double(), rank) for v in vectors), strict=True)
    outer, inner = orthonormal(torch.cat(left, dim=1)), orthonormal(torch.cat(right).T)
    return (outer * torch.cat(values)) @ inner.T


def orthonormal(x: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (a partial isometry where x is rank-deficient).

    Args:
        x: m × n, not zero.
    """
    u, _, vh = thin_svd(x)
    return u @ vh

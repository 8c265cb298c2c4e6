"""TSV-Merge (arXiv 2412.00081): task singular vectors, made orthogonal across the tasks.

    τ_i ≈ U_i Σ_i V_iᵀ, the ⌊min(out, in)/K⌋ largest singular values                          [V]
    U = [U_1 … U_K], V = [V_1 … V_K], Σ = diag(Σ_1 … Σ_K)
    τ = U⊥ Σ V⊥ᵀ,   X⊥ = argmin ‖X⊥ − X‖ with orthonormal columns = PQᵀ for X = PDQᵀ          [V]

Where the experts' singular vectors are dependent the nearest X⊥ isn't unique; the directions in
which X is zero (D within rounding of 0) are left out then, so equal experts give that expert's
low-rank part [ours]. Directions of singular values within rounding of 0 don't take part [ours].
"""

from __future__ import annotations

import torch
from torch import Tensor

from amm.methods.closed_form import memory, shared_rank, thin_svd
from amm.methods.descent import full_precision, moved
from amm.methods.registry import OtherTensors, register
from amm.settings import Settings


class TsvSettings(Settings):
    """Settings of TSV-Merge.

    Attributes:
        scale: W = W_0 + scale · τ; 1 as published [V].
        other_tensors: what is done with embeddings, heads, norms, biases and convolutions: `mean`
            [V] or sum (`task_arithmetic`) of the task vectors, or `base`.
    """

    scale: float = 1.0
    other_tensors: OtherTensors = "mean"


@register("tsv", settings=TsvSettings, tensors="linear", memory=memory)
@full_precision
def tsv(task_vectors: Tensor, settings: TsvSettings) -> Tensor:
    """TSV-Merge: each expert's leading singular vectors, made orthogonal to the other experts'.

    Args:
        task_vectors: K × out × in, τ_i = W_i − W_0, float32 or float64. Zero ones are left out,
            and don't count in K.
        settings: see `TsvSettings`.

    Returns:
        scale · τ, out × in; zero when every τ_i is.
    """
    vectors = moved(task_vectors)
    if not len(vectors):
        return torch.zeros_like(task_vectors[0])
    rank = shared_rank(vectors)
    left, values, right = zip(*(thin_svd(v.double(), rank) for v in vectors), strict=True)
    outer, inner = orthonormal(torch.cat(left, dim=1)), orthonormal(torch.cat(right).T)
    return (settings.scale * (outer * torch.cat(values)) @ inner.T).to(vectors.dtype)


def orthonormal(x: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (a partial isometry where x is rank-deficient).

    Args:
        x: m × n, not zero.
    """
    u, _, vh = thin_svd(x)
    return u @ vh

"""Iso-C (arXiv 2502.04959): task arithmetic with all singular values made equal.

    Σ τ_i = U diag(σ_1 … σ_r) Vᵀ,   τ = σ̄ U Vᵀ,   σ̄ = (1/r) Σ σ_j                            [V]

r counts the singular values that aren't within rounding of 0: beyond them U and V are arbitrary
[ours].
"""

from __future__ import annotations

import torch
from torch import Tensor

from amm.methods.closed_form import memory, thin_svd
from amm.methods.descent import full_precision
from amm.methods.registry import OtherTensors, register
from amm.settings import Settings


class IsoCSettings(Settings):
    """Settings of Iso-C.

    Attributes:
        scale: W = W_0 + scale · τ; the paper tunes it on held-out data [V], 1 is our default.
        other_tensors: what is done with embeddings, heads, norms, biases and convolutions: `mean`
            [V] or sum (`task_arithmetic`) of the task vectors, or `base`.
    """

    scale: float = 1.0
    other_tensors: OtherTensors = "mean"


@register("iso_c", settings=IsoCSettings, tensors="linear", memory=memory)
@full_precision
def iso_c(task_vectors: Tensor, settings: IsoCSettings) -> Tensor:
    """Iso-C: the sum of the task vectors, every singular value replaced by their mean.

    Args:
        task_vectors: K × out × in, τ_i = W_i − W_0, float32 or float64.
        settings: see `IsoCSettings`.

    Returns:
        scale · τ, out × in; zero when the τ_i cancel.
    """
    total = task_vectors.sum(dim=0, dtype=torch.float64)
    if not total.any():
        return torch.zeros_like(task_vectors[0])
    u, s, vh = thin_svd(total)
    return (settings.scale * s.mean() * u @ vh).to(task_vectors.dtype)

"""Model Stock (arXiv 2403.19522): the point nearest to the centre of fine-tuned weights.

    cos θ = the mean of cos(τ_i, τ_j) over pairs,   t = K cos θ / (1 + (K − 1) cos θ)        [V]
    τ = t · (1/K) Σ τ_i

for each tensor by itself. The paper gives one angle for all pairs; their mean is mergekit's reading
and ours. A mean below 0 counts as 0 [ours]: then τ is 0. Experts that left the tensor as it was
don't count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amm.methods.combination import register_combination
from amm.settings import Settings


class ModelStockSettings(Settings):
    """Settings of Model Stock.

    Attributes:
        scale: W = W_0 + scale · τ.
    """

    scale: float = 1.0


@register_combination("model_stock", ModelStockSettings)
def model_stock(products: Tensor, settings: ModelStockSettings) -> Tensor:
    """(1 + K)² → 1 + K, as `Coefficients`: the mean, shortened by how much they disagree."""
    inner = products[1:, 1:]
    norms = inner.diagonal().sqrt()
    moved = norms > 0
    count = int(moved.sum())
    unit = torch.where(moved, 1 / norms, 0.0)
    cosines = inner * unit[:, None] * unit
    pairs = max(count * (count - 1), 1)
    cosine = 1.0 if count == 1 else max((cosines.sum().item() - count) / pairs, 0.0)
    ratio = count * cosine / (1 + (count - 1) * cosine)
    coefficients = products.new_zeros(len(products))
    coefficients[1:][moved] = settings.scale * ratio / count
    return coefficients

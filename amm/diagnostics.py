"""Figures of one merged layer: how far it went, towards whom, and what interference is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from amm.methods.descent import common_rms, frobenius_norms, full_precision, moved, squarable

NORM_RATIO_WARNING = 2.0
"""Above this ‖τ‖/‖Σ τ_i‖ a layer is reported: near ρ = 1 an exact solution's norm explodes [D]."""


@dataclass(frozen=True)
class LayerFigures:
    """Figures of one linear layer; τ is what was added to the base.

    Attributes:
        experts: number of experts whose task vector isn't zero, K.
        rho: ρ = K · out / in. For ρ ≤ 1 the least loss is 0, and a small loss proves nothing.
        rms: common RMS of the task vectors that aren't zero, in units of the weights.
        norm: ‖τ‖.
        norms: ‖τ_i‖ of every expert, in the order given; 0 where it left the layer as it was.
        norm_ratio: ‖τ‖ / ‖Σ τ_i‖.
        cosines: cos(τ, τ_i) of every expert; None where it left the layer as it was.
        loss_before: Σ L_i (WUDI's, without α and β) at Σ τ_i, in squared units of the weights.
        loss_after: the same at τ.
    """

    experts: int
    rho: float
    rms: float
    norm: float
    norms: tuple[float, ...]
    norm_ratio: float
    cosines: tuple[float | None, ...]
    loss_before: float
    loss_after: float

    @property
    def relative_losses(self) -> tuple[float, float]:
        """Loss before and after, divided by Σ ‖τ_i‖²: free of units, so that layers compare."""
        unit = sum(norm**2 for norm in self.norms)
        return self.loss_before / unit, self.loss_after / unit


_ROWS = 512
"""Rows of τ from which a loss is estimated at most: it is a sum over the rows."""


@full_precision
def layer_figures(task_vectors: Tensor, tau: Tensor) -> LayerFigures:
    """Measure one merged linear layer. Losses of more than 512 rows are estimates from so many.

    Args:
        task_vectors: τ_i, K × out × in; zero ones are left out, one at least isn't zero.
        tau: what was added to the base, out × in.
    """
    vectors = moved(task_vectors)
    count, rows, columns = vectors.shape
    rms = common_rms(vectors)
    vectors = squarable(vectors, rms)
    tau, start = tau.to(vectors.dtype), vectors.sum(dim=0)
    alive = frobenius_norms(vectors)
    tau_norm, start_norm = frobenius_norms(torch.stack([tau, start]))
    products = (vectors.flatten(1) @ tau.flatten()).double()
    cosines = iter((products / (alive * tau_norm)).nan_to_num(0.0).tolist())
    norms = tuple(frobenius_norms(task_vectors).tolist())
    return LayerFigures(
        experts=count,
        rho=count * rows / columns,
        rms=rms,
        norm=tau_norm.item(),
        norms=norms,
        norm_ratio=(tau_norm / start_norm).nan_to_num(0.0).item(),
        cosines=tuple(next(cosines) if norm > 0 else None for norm in norms),
        loss_before=_loss(start, vectors, alive),
        loss_after=_loss(tau, vectors, alive),
    )


def together(layers: Sequence[LayerFigures]) -> LayerFigures:
    """Figures of several layers of one shape as of one whose blocks they are: norms and losses add
    in squares and sums, K and ρ are the largest. Of one layer, its own.

    Args:
        layers: at least one.
    """
    if len(layers) == 1:
        return layers[0]
    experts, rms, taus, ratios = np.array(
        [(layer.experts, layer.rms, layer.norm, layer.norm_ratio) for layer in layers]
    ).T
    norms = np.array([layer.norms for layer in layers])
    cosines = np.array([layer.cosines for layer in layers], dtype=np.float64)
    products = (np.nan_to_num(cosines) * norms * taus[:, None]).sum(axis=0)
    starts = np.divide(taus, ratios, out=np.zeros_like(taus), where=ratios > 0)
    norm, start, sides = (np.linalg.norm(each, axis=0) for each in (taus, starts, norms))
    return LayerFigures(
        experts=int(experts.max()),
        rho=max(layer.rho for layer in layers),
        rms=float(np.sqrt((experts * rms**2).sum() / experts.sum())),
        norm=float(norm),
        norms=tuple(sides.tolist()),
        norm_ratio=float(norm / start) if start else 0.0,
        cosines=tuple(
            (float(product / (side * norm)) if norm else 0.0) if side else None
            for product, side in zip(products, sides, strict=True)
        ),
        loss_before=sum(layer.loss_before for layer in layers),
        loss_after=sum(layer.loss_after for layer in layers),
    )


def _loss(tau: Tensor, vectors: Tensor, norms: Tensor) -> float:
    """Σ_i ‖(τ − τ_i) τ_iᵀ‖²_F / ‖τ_i‖²_F, from at most `_ROWS` evenly spaced rows of τ."""
    rows = len(tau)
    sampled = torch.linspace(0, rows - 1, min(rows, _ROWS), device=tau.device).round().long()
    total = 0.0
    for vector, norm in zip(vectors, norms.tolist(), strict=True):
        residual = (tau[sampled] - vector[sampled]) @ vector.T
        total += residual.norm().item() ** 2 / norm**2
    return total * rows / len(sampled)

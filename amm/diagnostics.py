"""Figures of one merged layer: how far it went, towards whom, and what interference is left."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from amm.methods.descent import (
    Interference,
    common_rms,
    frobenius_norms,
    full_precision,
    moved,
)

NORM_RATIO_WARNING = 2.0
"""Above this ‖τ‖/‖Σ τ_i‖ a layer is reported: near ρ = 1 an exact solution's norm explodes [D]."""


@dataclass(frozen=True)
class LayerFigures:
    """Figures of one linear layer; τ is what was added to the base.

    Attributes:
        experts: number of experts whose task vector isn't zero, K.
        rho: ρ = K · out / in. For ρ ≤ 1 the least loss is 0, and a small loss proves nothing.
        rms: common RMS of the task vectors, in units of the weights.
        norm_ratio: ‖τ‖ / ‖Σ τ_i‖.
        cosines: cos(τ, τ_i) for each of the K experts.
        loss_before: Σ L_i (WUDI's, without α and β) at Σ τ_i, in squared units of the weights.
        loss_after: the same at τ.
    """

    experts: int
    rho: float
    rms: float
    norm_ratio: float
    cosines: tuple[float, ...]
    loss_before: float
    loss_after: float


@full_precision
def layer_figures(task_vectors: Tensor, tau: Tensor) -> LayerFigures:
    """Measure one merged linear layer.

    Args:
        task_vectors: τ_i, K × out × in; zero ones are left out, one at least isn't zero.
        tau: what was added to the base, out × in.
    """
    vectors = moved(task_vectors)
    count, rows, columns = vectors.shape
    rms = common_rms(vectors)
    layer = Interference(vectors / rms)
    tau = tau / rms
    norms = frobenius_norms(layer.task_vectors)
    tau_norm, start_norm = frobenius_norms(tau[None])[0], frobenius_norms(layer.start[None])[0]
    products = (layer.task_vectors.flatten(1) @ tau.flatten()).double()
    cosines = (products / (norms * tau_norm)).nan_to_num(0.0)
    return LayerFigures(
        experts=count,
        rho=count * rows / columns,
        rms=rms,
        norm_ratio=(tau_norm / start_norm).nan_to_num(0.0).item(),
        cosines=tuple(cosines.tolist()),
        loss_before=rms**2 * layer.losses(layer.start).sum().item(),
        loss_after=rms**2 * layer.losses(tau).sum().item(),
    )

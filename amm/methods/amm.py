"""Adaptive Model Merging (AMM), the merger of Tiny-R1V (arXiv 2510.08987).

A variant of WUDI-Merging [V]: for the weight of each linear layer by itself, with K experts and
task vectors τ_i = W_i − W_0 (out × in),

    L_i(τ)   = ‖(τ − τ_i) τ_iᵀ‖²_F / ‖τ_i‖²_F                                WUDI's term [V]
    α_i      = ‖τ_i‖_F / Σ_j ‖τ_j‖_F                                         [I]
    β_i(t)   = softmax_i( cos(τ^(t), τ_i) / T ), no gradient through it      [I]
    L_w      = Σ_i α_i β_i(t) L_i,   G = ∂L_w/∂τ
    R        = ‖G − PG‖²_F,  P the Frobenius projector onto span{τ_1 … τ_K}  [I]
    minimise   L_w + λR   from   τ^(0) = Σ_i τ_i   in a finite number of steps
    W        = W_0 + scale · τ

The authors say that there are an inherent weight from each task vector's norm, a compatibility
weight that changes at every step, and a penalty on gradient components orthogonal to the task
vectors [V]; they published no formula, step count or coefficient. R is 0 wherever the gradient of
L_w is, and β moves no minimiser of zero loss: both shape only the path, so the finite number of
steps is part of the method and an exact solution would not be AMM [D].

With w_i = α_iβ_i/‖τ_i‖² and C = Σ_i w_i τ_iᵀτ_i [D]:

    G        = ∂L_w/∂τ = 2 (τC − Σ_i w_i τ_i τ_iᵀτ_i)
    ∂R/∂τ    = 4 (G − PG) C          for constant weights
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from amm.methods.descent import (
    PUBLISHED_EPS,
    PUBLISHED_LR,
    PUBLISHED_RMS,
    DescentSettings,
    Interference,
    OffSpan,
    common_rms,
    descend,
    frobenius_norms,
    memory,
    penalised_gradient,
    squarable,
)
from amm.methods.linear import register_linear

Alpha = Literal["norm", "squared_norm", "inverse_norm", "uniform"]
Beta = Literal["softmax_cos", "mean_cos_others", "neg_loss", "uniform"]
Penalty = Literal["span", "per_task", "projection"]


class AmmSettings(DescentSettings):
    """Settings of AMM. What isn't labelled [V] is our choice.

    Attributes:
        lr: Adam's step in units of the layer's common RMS. WUDI's published 1e-5 is 0.01 of the
            RMS where the deltas have RMS 1e-3 [D]; Adam's ε, 1e-8, becomes 1e-5 likewise.
        alpha: α from the task vectors' norms, their squares, their inverses, or 1/K.
        beta: β = softmax over i of what follows, divided by `temperature`:
            `softmax_cos` cos(τ, τ_i) at this step; `mean_cos_others` the mean cosine of τ_i with
            the other experts; `neg_loss` −L_i divided by the mean loss at this step; or 1/K
            (`uniform`).
        temperature: T.
        penalty: `span` R as above; `per_task` R = Σ_i ‖G − ⟨G, τ_i⟩/‖τ_i‖² τ_i‖²; `projection` no
            R, each update is projected onto span{τ_1 … τ_K} instead, and λ isn't used.
        penalty_weight: λ in units of the layer's inverse mean curvature, in/tr C, which makes it
            independent of the layer's size and of K. By ∂R/∂τ above, at a direction of mean
            curvature R pulls 4λ times as hard as L_w: with the default as hard as L_w itself, and
            harder along directions of higher curvature. 0 switches R off.
        beta_every: steps for one evaluation of β; 1 is the formula [ours].
    """

    lr: float = Field(PUBLISHED_LR / PUBLISHED_RMS, gt=0)
    alpha: Alpha = "norm"
    beta: Beta = "softmax_cos"
    temperature: float = Field(1.0, gt=0)
    penalty: Penalty = "span"
    penalty_weight: float = Field(0.25, ge=0)
    beta_every: int = Field(100, ge=1)


@register_linear("amm", settings=AmmSettings, memory=memory)
def amm(vectors: Tensor, settings: AmmSettings) -> Tensor:
    """K × out × in → out × in: Adam on L_w + λR, from the sum.

    L_w is multiplied by K², so that uniform α and β with λ = 0 are WUDI.
    """
    unit = common_rms(vectors)
    vectors = squarable(vectors, unit)
    layer = Interference(vectors)
    norms = frobenius_norms(layer.task_vectors).to(vectors.dtype)
    alpha = inherent_weights(norms, settings.alpha)
    beta = compatibility_weights(layer, norms, settings.beta, settings.temperature)
    project = span_projector(layer.task_vectors)
    off_span = orthogonal_part(layer.task_vectors, norms, settings.penalty)
    projected = settings.penalty == "projection"

    def field(tau: Tensor, evaluations: int) -> Callable[[Tensor], Tensor]:
        w = len(norms) ** 2 * alpha * beta(tau) / norms**2
        mean_curvature = (w * norms**2).sum().item() / tau.shape[1]
        strength = 0.0 if projected else 4 * settings.penalty_weight / mean_curvature
        return penalised_gradient(layer, w, off_span, strength, evaluations)

    travelled = descend(
        layer.start,
        field,
        steps=settings.steps,
        lr=unit * settings.lr,
        eps=unit * PUBLISHED_EPS / PUBLISHED_RMS,
        stride=settings.stride,
        refresh=settings.beta_every,
        precision=settings.precision,
        constrain=project if projected else None,
    )
    return layer.start + travelled


def inherent_weights(norms: Tensor, kind: Alpha) -> Tensor:
    """α_i, K values that sum to 1, from the norms ‖τ_i‖ (K, positive)."""
    power = {"norm": 1, "squared_norm": 2, "inverse_norm": -1, "uniform": 0}[kind]
    return norms**power / (norms**power).sum()


def compatibility_weights(
    layer: Interference, norms: Tensor, kind: Beta, temperature: float
) -> Callable[[Tensor], Tensor]:
    """The map τ ↦ β, from out × in to K values that sum to 1."""
    flat = layer.task_vectors.flatten(1)

    def cosines(tau: Tensor) -> Tensor:
        return flat @ tau.flatten() / (norms * tau.norm()).clamp_min(torch.finfo(tau.dtype).tiny)

    def relative_losses(tau: Tensor) -> Tensor:
        losses = layer.losses(tau)
        return losses / losses.mean().clamp_min(torch.finfo(tau.dtype).tiny)

    among = flat @ flat.T / torch.outer(norms, norms)
    others = (among.sum(dim=1) - among.diagonal()) / max(len(norms) - 1, 1)
    score: dict[Beta, Callable[[Tensor], Tensor]] = {
        "softmax_cos": cosines,
        "mean_cos_others": lambda tau: others,
        "neg_loss": lambda tau: -relative_losses(tau),
        "uniform": lambda tau: torch.zeros_like(norms),
    }
    return lambda tau: torch.softmax(score[kind](tau) / temperature, dim=0)


def span_projector(task_vectors: Tensor) -> Callable[[Tensor], Tensor]:
    """P, the Frobenius projector onto span{τ_1 … τ_K}: a map from out × in to itself.

    Dependent task vectors are allowed: a direction whose square is below 1e-5 of the largest
    counts as none.

    Args:
        task_vectors: K × out × in.
    """
    flat, inverse = task_vectors.flatten(1), _inverse_gram(task_vectors)
    return lambda x: (inverse @ (flat @ x.flatten()) @ flat).view_as(x)


def orthogonal_part(task_vectors: Tensor, norms: Tensor, kind: Penalty) -> OffSpan:
    """The map G ↦ ½ ∂R/∂G, from out × in to itself.

    G − PG, or Σ_i (G − ⟨G, τ_i⟩/‖τ_i‖² τ_i) for `per_task`.

    Args:
        task_vectors: K × out × in.
        norms: ‖τ_i‖, K.
        kind: form of R.
    """
    if kind == "per_task":
        return OffSpan(len(norms), torch.diag(norms**-2))
    return OffSpan(1, _inverse_gram(task_vectors))


def _inverse_gram(task_vectors: Tensor) -> Tensor:
    """K × K, the inverse of the inner products ⟨τ_i, τ_j⟩."""
    flat = task_vectors.flatten(1)
    return torch.linalg.pinv(flat @ flat.T, rtol=1e-5, hermitian=True)

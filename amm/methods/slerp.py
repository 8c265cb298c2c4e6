"""SLERP: along the arc between two models' weights, tensor by tensor.

    θ = ∠(W_1, W_2),   W = sin((1 − t) θ)/sin θ · W_1 + sin(t θ)/sin θ · W_2

as in Shoemake (SIGGRAPH 1985), with the weights as they are, not of unit length, as mergekit has
it. With one expert W_1 is the base. Where the two are parallel, or one is zero, it is the straight
line.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from amm.errors import InputError
from amm.methods.combination import from_weights, of_weights, register_combination
from amm.settings import Settings

PARALLEL = 1e-6
"""Angles below this, or as near to π, are straight lines."""


class SlerpSettings(Settings):
    """Settings of SLERP.

    Attributes:
        t: share of the way from the first to the second.
    """

    t: float = Field(0.5, ge=0, le=1)


@register_combination("slerp", SlerpSettings)
def slerp(products: Tensor, settings: SlerpSettings) -> Tensor:
    """(1 + K)² → 1 + K, as `Coefficients`: between two experts' weights, or the base's and one's.

    Raises:
        InputError: more than two experts.
    """
    if len(products) > 3:
        raise InputError(
            f"slerp goes from one model to another, and there are {len(products) - 1} experts; give"
            " two, or one to start from the base. `karcher` takes more."
        )
    inner = of_weights(products)[-2:, -2:]
    norms = inner.diagonal().sqrt()
    cosine = (inner[0, 1] / norms.prod()).nan_to_num(1.0).clamp(-1, 1)
    angle = cosine.arccos()
    share = torch.tensor([1 - settings.t, settings.t], dtype=products.dtype)
    if PARALLEL < angle < torch.pi - PARALLEL:
        share = (share * angle).sin() / angle.sin()
    coefficients = products.new_zeros(len(products))
    coefficients[-2:] = share
    return from_weights(coefficients)

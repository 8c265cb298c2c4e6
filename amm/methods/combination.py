"""Merges that are a linear combination of whole tensors, with coefficients from inner products.

With W_0 and the τ_i flattened, everything that `slerp`, `karcher` and `model_stock` need to know of
a tensor is its (1 + K) × (1 + K) Gram matrix, summed block by block in float64; what they add to
the base is c_0 W_0 + Σ c_i τ_i.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from amm.loops import kernel
from amm.methods.registry import Blocks, Kernel, MethodFunction, Place, register
from amm.settings import Settings

Coefficients = Callable[[Tensor, Any], Tensor]
"""(Gram matrix of W_0 and the τ_i, (1 + K)², float64; settings) → c_0 … c_K, float64. Not asked
where every τ_i is 0."""


def gram(blocks: Blocks) -> Tensor:
    """⟨W_0, W_0⟩, ⟨W_0, τ_i⟩ and ⟨τ_i, τ_j⟩ of a tensor, (1 + K) × (1 + K), float64."""
    total = torch.zeros(1 + blocks.experts, 1 + blocks.experts, dtype=torch.float64)
    for block in blocks():
        flat = block.reshape(1 + blocks.experts, -1).double()
        total += flat @ flat.T
    return total


def of_weights(products: Tensor) -> Tensor:
    """⟨W_i, W_j⟩ of the base and the experts, W_i = W_0 + τ_i, (1 + K)², from a `gram`."""
    cross = products[0].clone()
    cross[0] = 0
    inner = products.clone()
    inner[0, :] = inner[:, 0] = 0
    return products[0, 0] + cross[:, None] + cross + inner


def from_weights(coefficients: Tensor) -> Tensor:
    """What adds Σ c_i W_i − W_0 to the base: the coefficients of W_0 and the τ_i, 1 + K.

    Args:
        coefficients: of the base's and the experts' weights, 1 + K.
    """
    return torch.cat([coefficients.sum()[None] - 1, coefficients[1:]])


@kernel
def combined(vectors: npt.NDArray, parameters: npt.NDArray, tau: npt.NDArray) -> None:
    """Σ c_k v_k; the parameters are the c_k."""
    for k in range(len(parameters)):
        coefficient = tau.dtype.type(parameters[k])
        for j in range(len(tau)):
            term = coefficient * vectors[k, j]
            tau[j] = term if k == 0 else tau[j] + term


def register_combination(
    name: str, settings: type[Settings]
) -> Callable[[Coefficients], MethodFunction]:
    """Register a method by the coefficients that it takes from a `gram`.

    Args:
        name: what `merge.yaml` calls it.
        settings: the class of its settings.
    """

    def decorator(coefficients: Coefficients) -> MethodFunction:
        def measured(blocks: Blocks, chosen: Settings) -> Tensor:
            products = gram(blocks)
            if not products[1:, 1:].any():  # nothing moved, and rounding would
                return torch.zeros(len(products))
            return coefficients(products, chosen)

        @register(
            name,
            settings=settings,
            tensors="all",
            elementwise=True,
            place=True,
            base=True,
            statistics=measured,
            kernel=Kernel(combined, lambda chosen, experts, found: found.tolist()),
        )
        def merged(tensors: Tensor, chosen: Settings, place: Place) -> Tensor:
            found = place.statistics.to(tensors)
            terms = (c * tensor for c, tensor in zip(found, tensors, strict=True))
            return functools.reduce(torch.add, terms)

        merged.__doc__ = coefficients.__doc__
        merged.__name__ = merged.__qualname__ = coefficients.__name__
        merged.__module__ = coefficients.__module__
        return merged

    return decorator

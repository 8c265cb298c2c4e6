"""What all methods of linear layers share: still experts, precision, scale, dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from amm.methods.descent import full_precision, moved
from amm.methods.registry import LinearSettings, register

LinearFunction = Callable[[Tensor, Any], Tensor]
"""(task vectors, settings) → τ; see `register_linear`."""


def register_linear(
    name: str,
    *,
    settings: type[LinearSettings],
    memory: Callable[[tuple[int, ...], int], int] | None = None,
) -> Callable[[LinearFunction], LinearFunction]:
    """Register a method that merges the weight of a linear layer as a whole.

    The decorated function is the mathematics alone: (τ_i = W_i − W_0, K × out × in, float32 or
    float64, none zero; settings) → τ, out × in. What is registered, and stands under its name,
    leaves out the experts that didn't move (τ_i = 0), which don't count in K either; gives 0 where
    none moved; takes float32 products in full precision, whatever the process has set; multiplies
    τ by `scale`; and returns it in the dtype of the task vectors.

    Args:
        name: what `merge.yaml` calls it.
        settings: the class of its settings.
        memory: see `amm.methods.registry.Method`.
    """

    def decorator(function: LinearFunction) -> LinearFunction:
        @register(name, settings=settings, tensors="linear", memory=memory)
        @functools.wraps(function)
        @full_precision
        def merged(task_vectors: Tensor, settings: LinearSettings) -> Tensor:
            vectors = moved(task_vectors)
            if not len(vectors):
                return torch.zeros_like(task_vectors[0])
            return (settings.scale * function(vectors, settings)).to(task_vectors.dtype)

        return merged

    return decorator

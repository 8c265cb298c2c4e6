"""Weight averaging: the merged model is the mean of the experts."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from amm.methods.registry import Kernel, register
from amm.methods.task_arithmetic import scaled_sum
from amm.settings import Settings


@register(
    "mean",
    settings=Settings,
    tensors="all",
    elementwise=True,
    kernel=Kernel(scaled_sum, lambda settings, experts, statistics: (1.0, experts)),
)
def mean(task_vectors: Tensor, settings: Settings) -> Tensor:
    """Mean of the task vectors, (1/K) Σ τ_i.

    An expert that left a tensor as it was counts like any other, so that the result is the mean
    of the experts' weights.

    Args:
        task_vectors: K × the tensor's shape, τ_i = W_i − W_0.
        settings: none.

    Returns:
        What is added to the base, the tensor's shape.
    """
    return functools.reduce(torch.add, task_vectors) / len(task_vectors)

"""Task arithmetic (Ilharco et al., arXiv 2212.04089): add the task vectors up."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from amm.loops import scaled_sum
from amm.methods.registry import Kernel, register
from amm.settings import Settings


class TaskArithmeticSettings(Settings):
    """Settings of task arithmetic.

    Attributes:
        scale: factor on the sum.
    """

    scale: float = 1.0


@register(
    "task_arithmetic",
    settings=TaskArithmeticSettings,
    tensors="all",
    elementwise=True,
    kernel=Kernel(scaled_sum, lambda settings, experts, statistics: (settings.scale, 1.0)),
)
def task_arithmetic(task_vectors: Tensor, settings: TaskArithmeticSettings) -> Tensor:
    """Scaled sum of the task vectors, scale · Σ τ_i.

    Args:
        task_vectors: K × the tensor's shape, τ_i = W_i − W_0.
        settings: the scale.

    Returns:
        What is added to the base, the tensor's shape.
    """
    return settings.scale * functools.reduce(torch.add, task_vectors)

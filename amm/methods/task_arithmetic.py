"""Task arithmetic (Ilharco et al., arXiv 2212.04089): add the task vectors up."""

from __future__ import annotations

import functools

import numpy.typing as npt
import torch
from torch import Tensor

from amm.loops import kernel
from amm.methods.registry import Kernel, register
from amm.settings import Settings


class TaskArithmeticSettings(Settings):
    """Settings of task arithmetic.

    Attributes:
        scale: factor on the sum.
    """

    scale: float = 1.0


@kernel
def scaled_sum(vectors: npt.NDArray, parameters: npt.NDArray, tau: npt.NDArray) -> None:
    """factor · Σ τ_i / divisor; the two are the parameters."""
    factor, divisor = tau.dtype.type(parameters[0]), tau.dtype.type(parameters[1])
    for k in range(len(vectors)):
        for j in range(len(tau)):
            tau[j] = vectors[k, j] if k == 0 else tau[j] + vectors[k, j]
    for j in range(len(tau)):
        tau[j] = factor * tau[j] / divisor


@register(
    "task_arithmetic",
    settings=TaskArithmeticSettings,
    tensors="all",
    elementwise=True,
    kernel=Kernel(scaled_sum, lambda settings, experts, statistics: (settings.scale, 1.0)),
)
def task_arithmetic(task_vectors: Tensor, settings: TaskArithmeticSettings) -> Tensor:
    """K × a tensor's shape → that shape: scale · Σ τ_i."""
    return settings.scale * functools.reduce(torch.add, task_vectors)

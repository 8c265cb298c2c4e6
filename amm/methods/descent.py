"""What WUDI and AMM share: the interference loss, its derivatives, and the descent.

For one linear layer with task vectors τ_i (K of them, out × in) and weights w_i ≥ 0, the loss is

    L(τ) = Σ_i w_i ‖(τ − τ_i) τ_iᵀ‖²_F

With G_i = τ_iᵀτ_i and C = Σ w_i G_i its gradient is 2(τC − Σ w_i τ_i G_i) [D]. Written for the
distance δ travelled from the start Σ_j τ_j it is

    ∂L/∂τ = 2 (δC + Σ_i w_i E_i),   E_i = (Σ_j τ_j − τ_i) G_i                              [D]

The second form doesn't subtract two nearly equal products. That matters: where the true gradient
is 0 (one expert, orthogonal row spaces), Adam would blow the rounding error of the first form up
to full steps.

Everything happens in units of the layer's common RMS, so that a step means the same for a
supervised delta (RMS 1e-3) and for a reinforcement-learning one (1e-5).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

PUBLISHED_RMS = 1e-3
"""RMS of the deltas at which WUDI's published lr, 1e-5, is 0.01 in units of the RMS [D]."""

PUBLISHED_LR = 1e-5
PUBLISHED_EPS = 1e-8
"""WUDI's Adam: lr 1e-5 [V]; ε is torch's default."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run with full float32 products (no TF32, no bf16), whatever the process has set."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_float32_matmul_precision(before)

    return wrapped


def frobenius_norms(task_vectors: Tensor) -> Tensor:
    """‖τ_i‖_F for each i, as float64: squares of tiny float32 entries would underflow.

    Args:
        task_vectors: K × the tensor's shape.

    Returns:
        K norms, float64.
    """
    flat = task_vectors.flatten(1)
    return torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)


def moved(task_vectors: Tensor) -> Tensor:
    """Leave out the experts whose task vector is zero: ‖τ_i‖ = 0 would give 0/0.

    Args:
        task_vectors: K × out × in.

    Returns:
        The others, K' × out × in, K' ≤ K, possibly 0.
    """
    alive = frobenius_norms(task_vectors) > 0
    return task_vectors if alive.all() else task_vectors[alive]


def common_rms(task_vectors: Tensor) -> float:
    """Root mean square over the entries of all the task vectors together.

    Args:
        task_vectors: K × out × in, not empty.
    """
    return (frobenius_norms(task_vectors).square().sum() / task_vectors.numel()).sqrt().item()


class Interference:
    """The loss Σ_i w_i ‖(τ − τ_i) τ_iᵀ‖²_F and its derivatives, in the cheaper of two exact forms.

    With in ≤ K·out, products with the K Gram matrices (in × in). With more columns than the
    experts have rows together, products with the stacked task vectors (K·out × in), which never
    forms an in × in matrix. Gram matrices are summed in float64 and rounded once: they square the
    condition number.

    Attributes:
        task_vectors: τ_i, K × out × in.
        start: Σ_i τ_i, out × in.
        pulls: E_i = (start − τ_i) G_i, K × out × in; exactly 0 where it is within rounding of 0
            (one expert, orthogonal row spaces), since Adam takes full steps along any noise.
    """

    def __init__(self, task_vectors: Tensor) -> None:
        count, rows, columns = task_vectors.shape
        self.task_vectors = task_vectors
        self.start = task_vectors.sum(dim=0)
        self.grams: Tensor | None = None
        if columns <= count * rows:
            self.grams = task_vectors.new_empty(count, columns, columns)
            for i, vector in enumerate(task_vectors):
                self.grams[i] = vector.double().T @ vector.double()
        self.pulls = torch.empty_like(task_vectors)
        for i in range(count):
            self.pulls[i] = self._pull(i)

    def curvature(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """The map x ↦ xC with C = Σ_i w_i G_i.

        Args:
            weights: w_i, K.

        Returns:
            A function from out × in to out × in.
        """
        if self.grams is not None:
            total = torch.tensordot(weights, self.grams, dims=1)
            return lambda x: x @ total
        stack = self.task_vectors.flatten(0, 1)
        row_weights = weights.repeat_interleave(self.task_vectors.shape[1])
        return lambda x: ((x @ stack.T) * row_weights) @ stack

    def gradient(self, travelled: Tensor, weights: Tensor) -> Tensor:
        """∂L/∂τ at τ = start + δ.

        Args:
            travelled: δ, out × in.
            weights: w_i, K.

        Returns:
            The gradient, out × in.
        """
        return 2 * (self.curvature(weights)(travelled) + self.pull(weights))

    def pull(self, weights: Tensor) -> Tensor:
        """Σ_i w_i E_i, half the gradient at the start.

        Args:
            weights: w_i, K.

        Returns:
            out × in.
        """
        return torch.tensordot(weights, self.pulls, dims=1)

    def losses(self, tau: Tensor) -> Tensor:
        """WUDI's terms L_i = ‖(τ − τ_i) τ_iᵀ‖²_F / ‖τ_i‖²_F.

        Args:
            tau: τ, out × in.

        Returns:
            K losses, in the square of the unit of the task vectors.
        """
        terms = []
        for i, vector in enumerate(self.task_vectors):
            apart = tau - vector
            if self.grams is not None:
                term = (apart * self._times_gram(apart, i)).sum().clamp_min(0)
            else:
                term = (apart @ vector.T).square().sum()
            terms.append(term / vector.square().sum())
        return torch.stack(terms)

    def _pull(self, i: int) -> Tensor:
        vector = self.task_vectors[i]
        apart = self.start - vector
        pull = self._times_gram(apart, i)
        rounding = 8 * torch.finfo(pull.dtype).eps * apart.norm() * vector.norm() ** 2
        return pull if pull.norm() > rounding else torch.zeros_like(pull)

    def _times_gram(self, x: Tensor, i: int) -> Tensor:
        if self.grams is not None:
            return x @ self.grams[i]
        return (x @ self.task_vectors[i].T) @ self.task_vectors[i]


def descend(
    layer: Interference,
    gradient: Callable[[Tensor], Tensor],
    *,
    steps: int,
    lr: float,
    eps: float,
    constrain: Callable[[Tensor], Tensor] = lambda update: update,
) -> Tensor:
    """Adam from the sum of the task vectors, a fixed number of steps.

    Args:
        layer: the layer.
        gradient: δ ↦ the gradient at start + δ; both out × in.
        steps: number of steps.
        lr: Adam's step, in the unit of the task vectors.
        eps: Adam's ε, in the unit of the gradient.
        constrain: applied to each update before it is taken.

    Returns:
        δ, the distance travelled from the sum, out × in.
    """
    beta1, beta2 = 0.9, 0.999
    travelled = torch.zeros_like(layer.start)
    first, second = torch.zeros_like(travelled), torch.zeros_like(travelled)
    for step in range(1, steps + 1):
        g = gradient(travelled)
        first.lerp_(g, 1 - beta1)
        second.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        spread = (second / (1 - beta2**step)).sqrt_().add_(eps)
        update = first / spread * (lr / (1 - beta1**step))
        travelled -= constrain(update)
    return travelled

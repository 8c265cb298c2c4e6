"""What WUDI and AMM share: the interference loss, its derivatives, and the descent.

For one linear layer with task vectors τ_i (K of them, out × in) and weights w_i ≥ 0, the loss is

    L(τ) = Σ_i w_i ‖(τ − τ_i) τ_iᵀ‖²_F

With G_i = τ_iᵀτ_i and C = Σ w_i G_i its gradient is 2(τC − Σ w_i τ_i G_i) [D]. Written for the
distance δ travelled from the start Σ_j τ_j it is

    ∂L/∂τ = 2 (δC + Σ_i w_i E_i),   E_i = (Σ_j τ_j − τ_i) G_i                              [D]

The second form doesn't subtract two nearly equal products. That matters: where the true gradient
is 0 (one expert, orthogonal row spaces), Adam would blow the rounding error of the first form up
to full steps.

Adam's step and ε are in units of the layer's common RMS, so that they mean the same for a
supervised delta (RMS 1e-3) and for a reinforcement-learning one (1e-5).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from amm.methods.registry import LinearSettings

PUBLISHED_RMS = 1e-3
"""RMS of the deltas at which WUDI's published lr, 1e-5, is 0.01 in units of the RMS [D]."""

PUBLISHED_LR = 1e-5
PUBLISHED_EPS = 1e-8
"""WUDI's Adam: lr 1e-5 [V]; ε is torch's default."""

Precision = Literal["highest", "medium"]
"""torch's names for the precision of float32 products: `medium` rounds factors to bf16 (CPUs with
bf16 units) or TF32 (CUDA), and is `highest` where there are no such units."""


class DescentSettings(LinearSettings):
    """Settings of the methods that descend.

    Attributes:
        steps: Adam steps [V].
        stride: steps for one evaluation of the gradient; 1 is the path as published, 10 a tenth of
            the work for a few percent of its length [ours], docs/amm-solver.md.
        precision: of the products within the descent: `medium` is bf16 or TF32 where there are
            units for it, a fraction of a percent of the path [ours]. Gram matrices are summed in
            float64 in any case.
    """

    steps: int = Field(300, ge=0)
    stride: int = Field(10, ge=1)
    precision: Precision = "medium"


FEW_EVALUATIONS = 4
"""Up to so many evaluations of a gradient with R aren't worth the products that make each cheap."""

FEW_EXPERTS = 4
"""For more experts than so many, the K matrices that make each cheap take too much memory."""

GRAM_ENTRIES = 2**27
"""The Gram matrices of a layer are kept if they have no more entries than this together."""

ROUNDED_ENTRIES = 2**18
"""A smaller factor isn't worth rounding to bf16."""

_GRAM_BLOCK = 512
"""Columns of a Gram matrix that are summed at a time."""

_NORM_BLOCK = 2**18

_P = ParamSpec("_P")
_R = TypeVar("_R")


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Float32 products in the given precision, whatever the process has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def full_precision(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run with full float32 products (no TF32, no bf16), whatever the process has set."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


def frobenius_norms(task_vectors: Tensor) -> Tensor:
    """‖τ_i‖_F for each i, as float64: squares of tiny float32 entries would underflow.

    Args:
        task_vectors: K × the tensor's shape.

    Returns:
        K norms, float64.
    """
    # In blocks: torch makes a float64 copy of its argument.
    norms = [
        torch.stack([torch.linalg.vector_norm(x, dtype=torch.float64) for x in blocks]).norm()
        for blocks in (vector.flatten().split(_NORM_BLOCK) for vector in task_vectors)
    ]
    return torch.stack(norms)


def moved(task_vectors: Tensor) -> Tensor:
    """Leave out the experts whose task vector is zero: ‖τ_i‖ = 0 would give 0/0.

    Args:
        task_vectors: K × out × in.

    Returns:
        The others, K' × out × in, K' ≤ K, possibly 0.
    """
    alive = frobenius_norms(task_vectors) > 0
    return task_vectors if alive.all() else task_vectors[alive]


def squarable(task_vectors: Tensor, unit: float) -> Tensor:
    """The task vectors, in float64 if float32 can't hold the squares of their RMS, `unit`."""
    return task_vectors if 1e-12 < unit < 1e12 else task_vectors.double()


def common_rms(task_vectors: Tensor) -> float:
    """Root mean square over the entries of all the task vectors together.

    Args:
        task_vectors: K × out × in, not empty.
    """
    return (frobenius_norms(task_vectors).square().sum() / task_vectors.numel()).sqrt().item()


def right_factor(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    """The map x ↦ x · matrix, prepared to be used more than once, in the precision that is set.

    On a CPU with bf16 units `medium` rounds the product to bf16 as well, which takes half the
    time that torch takes to round the factors alone.
    """
    if _rounds_factors(matrix):
        half = matrix.bfloat16()
        return lambda x: (x.bfloat16() @ half).float()
    return lambda x: x @ matrix


def _rounds_factors(matrix: Tensor) -> bool:
    return (
        torch.get_float32_matmul_precision() == "medium"
        and matrix.dtype == torch.float32
        and matrix.device.type == "cpu"
        and matrix.numel() >= ROUNDED_ENTRIES
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def weighted_gram(task_vectors: Tensor, weights: Tensor) -> Tensor:
    """C = Σ_i w_i τ_iᵀτ_i, summed in float64 and rounded once.

    It is symmetric: of each block of columns the part from the diagonal on is multiplied, and the
    rest is its mirror image.

    Args:
        task_vectors: τ_i, K × out × in.
        weights: w_i, K.

    Returns:
        in × in.
    """
    columns = task_vectors.shape[2]
    gram = task_vectors.new_empty(columns, columns)
    for first in range(0, columns, _GRAM_BLOCK):
        block = slice(first, first + _GRAM_BLOCK)
        part = sum(
            w.double() * (vector[:, first:].double().T @ vector[:, block].double())
            for w, vector in zip(weights, task_vectors, strict=True)
        )
        gram[first:, block], gram[block, first:] = part, part.T
    return gram


class Curvature:
    """C = Σ_i w_i τ_iᵀτ_i as a map of out × in matrices, x ↦ xC, by one in × in matrix."""

    def __init__(self, layer: Interference, matrix: Tensor) -> None:
        self._layer = layer
        self._matrix = matrix
        self._times = right_factor(matrix)

    def __call__(self, x: Tensor) -> Tensor:
        return self._times(x)

    @functools.cached_property
    def turned(self) -> Tensor:
        """Z_k = τ_k C, K × out × in."""
        turned = torch.empty_like(self._layer.task_vectors)
        for row, vector in zip(turned, self._layer.task_vectors, strict=True):
            row.copy_(self(vector))
        return turned

    def polynomial(self, linear: float, quadratic: float) -> Callable[[Tensor], Tensor]:
        """The map x ↦ x (linear · C + quadratic · C²), at the price of one product x ↦ xC."""
        matrix = self._matrix
        return right_factor(torch.addmm(matrix, matrix, matrix, beta=linear, alpha=quadratic))


class StackedCurvature:
    """The same by the stack S of the task vectors, K·out × in: C = Sᵀ diag(w) S."""

    def __init__(self, layer: Interference, weights: Tensor) -> None:
        self._layer = layer
        self._stack = layer.task_vectors.flatten(0, 1)
        self._weights = weights.repeat_interleave(layer.task_vectors.shape[1])
        self._times_transposed = right_factor(self._stack.T)

    def __call__(self, x: Tensor) -> Tensor:
        return self._times_stack(self._times_transposed(x).mul_(self._weights))

    @functools.cached_property
    def turned(self) -> Tensor:
        """Z_k = τ_k C, K × out × in, from S Sᵀ."""
        among = self._layer.row_products * self._weights
        return self._times_stack(among).view_as(self._layer.task_vectors)

    def polynomial(self, linear: float, quadratic: float) -> Callable[[Tensor], Tensor]:
        """The map x ↦ x (linear · C + quadratic · C²), at the price of one product x ↦ xC.

        It is x Sᵀ · diag(w) (linear · S + quadratic · Z).
        """
        both = self._stack * linear
        both.add_(self.turned.flatten(0, 1), alpha=quadratic).mul_(self._weights[:, None])
        times_both = right_factor(both)
        return lambda x: times_both(self._times_transposed(x))

    @functools.cached_property
    def _times_stack(self) -> Callable[[Tensor], Tensor]:
        return right_factor(self._stack)


class Interference:
    """The loss Σ_i w_i ‖(τ − τ_i) τ_iᵀ‖²_F and its derivatives, in the cheaper of two exact forms.

    With in ≤ K·out, products with C, an in × in matrix. With more columns than the experts have
    rows together, products with the stacked task vectors, which never form an in × in matrix.
    Gram matrices are summed in float64 and rounded once: they square the condition number. They
    are kept if they are small (`GRAM_ENTRIES`). If not, C is summed anew for new weights; Σ w_i E_i
    is there, and for many experts.

    Attributes:
        task_vectors: τ_i, K × out × in.
        start: Σ_i τ_i, out × in.
        stacked: products are those with the stacked task vectors.
        grams: G_i, K × in × in; None where they aren't kept.
        pulls: E_i, K × out × in; None where they aren't kept.
    """

    def __init__(self, task_vectors: Tensor) -> None:
        count, rows, columns = task_vectors.shape
        self.task_vectors = task_vectors
        self.start = task_vectors.sum(dim=0)
        self.stacked = columns > count * rows
        self.grams: Tensor | None = None
        if not self.stacked and count * columns**2 <= GRAM_ENTRIES:
            self.grams = task_vectors.new_empty(count, columns, columns)
            for gram, vector in zip(self.grams, task_vectors.split(1), strict=True):
                gram.copy_(weighted_gram(vector.double(), vector.new_ones(1)))
        self.pulls: Tensor | None = None
        if self.stacked or (self.grams is not None and count <= FEW_EXPERTS):
            self.pulls = torch.empty_like(task_vectors)
            for i in range(count):
                self.pulls[i] = self._pull(i)

    def curvature(self, weights: Tensor) -> Curvature | StackedCurvature:
        """The map x ↦ xC with C = Σ_i w_i G_i, for out × in matrices.

        Args:
            weights: w_i, K.
        """
        if self.stacked:
            return StackedCurvature(self, weights)
        if self.grams is not None:
            return Curvature(self, torch.tensordot(weights, self.grams, dims=1))
        return Curvature(self, weighted_gram(self.task_vectors, weights))

    def gradient(self, weights: Tensor) -> Callable[[Tensor], Tensor]:
        """The map δ ↦ ∂L/∂τ at τ = start + δ, both out × in.

        Args:
            weights: w_i, K.
        """
        times_c, pull = self.curvature(weights), self.pull(weights)
        return lambda travelled: times_c(travelled).add_(pull).mul_(2)

    def pull(self, weights: Tensor) -> Tensor:
        """Σ_i w_i E_i, half the gradient at the start.

        Args:
            weights: w_i, K.

        Returns:
            out × in.
        """
        if self.pulls is not None:
            return torch.tensordot(weights, self.pulls, dims=1)
        total = torch.zeros_like(self.start)
        for i, w in enumerate(weights.tolist()):
            total.add_(self._pull(i), alpha=w)
        return total

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
                term = (apart @ self.grams[i]).mul_(apart).sum().clamp_min(0)
            else:
                term = (apart @ vector.T).square_().sum()
            terms.append(term / vector.square().sum())
        return torch.stack(terms)

    @functools.cached_property
    def row_products(self) -> Tensor:
        """S Sᵀ, K·out × K·out, of the stacked task vectors S."""
        stack = self.task_vectors.flatten(0, 1)
        return stack @ stack.T

    def _pull(self, i: int) -> Tensor:
        """E_i; exactly 0 where it is within rounding of 0 (one expert, orthogonal row spaces),
        since Adam takes full steps along any noise."""
        vector = self.task_vectors[i]
        apart = self.start - vector
        pull = apart @ vector.T @ vector if self.grams is None else apart @ self.grams[i]
        rounding = 8 * torch.finfo(pull.dtype).eps * apart.norm() * vector.norm() ** 2
        return pull if pull.norm() > rounding else torch.zeros_like(pull)


@dataclass(frozen=True)
class OffSpan:
    """A linear map of out × in matrices that removes what the task vectors span.

    g ↦ factor · g − Σ_k c_k τ_k,  c_k = Σ_j mixing_kj ⟨g, τ_j⟩

    Attributes:
        factor: a number.
        mixing: K × K.
    """

    factor: float
    mixing: Tensor

    def __call__(self, g: Tensor, task_vectors: Tensor) -> Tensor:
        flat = task_vectors.flatten(1)
        coefficients = self.mixing @ (flat @ g.flatten())
        return self.factor * g - (coefficients @ flat).view_as(g)


def penalised_gradient(
    layer: Interference, weights: Tensor, off_span: OffSpan, strength: float, evaluations: int
) -> Callable[[Tensor], Tensor]:
    """The map δ ↦ G + strength · off_span(G) C with G = ∂L/∂τ, at constant weights.

    Evaluated as written it takes two products with C. For more than a few evaluations, with
    Z_k = τ_k C and E = Σ w_i E_i, it is rearranged into one [D]:

        δ (2C + 2 strength · factor · C²) + (2E + strength · 2 factor · EC) − strength Σ_k c_k Z_k,
        ⟨G, τ_j⟩ = 2 ⟨δ, Z_j⟩ + 2 ⟨E, τ_j⟩

    Args:
        layer: the layer.
        weights: w_i, K.
        off_span: the part of the gradient that is penalised.
        strength: of the penalty's gradient; 0: none.
        evaluations: how often the map will be used.
    """
    if strength == 0:
        return layer.gradient(weights)
    times_c, pull, vectors = layer.curvature(weights), layer.pull(weights), layer.task_vectors
    if evaluations <= FEW_EVALUATIONS or len(vectors) > FEW_EXPERTS:

        def as_written(travelled: Tensor) -> Tensor:
            g = times_c(travelled).add_(pull).mul_(2)
            return g.add_(times_c(off_span(g, vectors)), alpha=strength)

        return as_written

    factor = 2 * strength * off_span.factor
    times_polynomial = times_c.polynomial(2.0, factor)
    at_start = 2 * (vectors.flatten(1) @ pull.flatten())
    constant = times_c(pull).mul_(factor).add_(pull, alpha=2)
    turned = times_c.turned.flatten(1)

    def rearranged(travelled: Tensor) -> Tensor:
        inner = 2 * (turned @ travelled.flatten()) + at_start
        g = times_polynomial(travelled).add_(constant)
        return g.view(-1).addmv_(turned.T, off_span.mixing @ inner, alpha=-strength).view_as(g)

    return rearranged


def memory(shape: tuple[int, ...], experts: int) -> int:
    """Bytes that WUDI or AMM takes for one layer in float32, beside its arguments and its result.

    Args:
        shape: out, in.
        experts: K.
    """
    rows, columns = shape
    layer, square, stacked = rows * columns, columns**2, experts * rows
    few = experts <= FEW_EXPERTS
    each, squares = (experts * layer, 3 * square) if few else (0, 2 * square)
    total = 10 * layer + each
    if columns > stacked:
        total += 3 * experts * layer + 2 * stacked**2
    elif experts * square <= GRAM_ENTRIES:
        total += experts * square + each + squares
    else:
        total += squares + 8 * columns * _GRAM_BLOCK
    return 4 * total


VectorField = Callable[[Tensor, int], Callable[[Tensor], Tensor]]
"""(τ, evaluations) ↦ the map δ ↦ gradient at start + δ, to be used so many times from τ on."""


def descend(
    start: Tensor,
    field: VectorField,
    *,
    steps: int,
    lr: float,
    eps: float,
    stride: int = 1,
    refresh: int = 1,
    precision: Precision = "highest",
    constrain: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Adam from the sum of the task vectors, a fixed number of steps.

    With a stride s the gradient is evaluated at every s-th step alone and held for s steps: Adam
    with s times its step and its decay rates to the power of s. docs/amm-solver.md has the
    distance from the path of every single step.

    Args:
        start: Σ_j τ_j, out × in.
        field: what gives the gradient.
        steps: number of steps.
        lr: Adam's step, in the unit of the task vectors.
        eps: Adam's ε, in the unit of the gradient.
        stride: steps for one evaluation of the gradient.
        refresh: steps for one call of `field`.
        precision: of the products that `field` and the gradient take.
        constrain: applied to each update before it is taken.

    Returns:
        δ, the distance travelled from the start, out × in.
    """
    beta1, beta2 = 0.9, 0.999
    travelled = torch.zeros_like(start)
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    per_field = max(refresh // stride, 1)
    with matmul_precision(precision):
        for begun in range(0, steps, stride * per_field):
            left = -(-(steps - begun) // stride)
            gradient = field(start + travelled, min(per_field, left))
            for done in range(begun, min(begun + stride * per_field, steps), stride):
                held = min(stride, steps - done)
                g = gradient(travelled)
                first.lerp_(g, 1 - beta1**held)
                second.mul_(beta2**held).addcmul_(g, g, value=1 - beta2**held)
                spread = torch.div(second, 1 - beta2 ** (done + held), out=g).sqrt_().add_(eps)
                update = torch.div(first, spread, out=spread)
                update *= held * lr / (1 - beta1 ** (done + held))
                travelled -= update if constrain is None else constrain(update)
            del gradient  # its matrices go before the next one's come
    return travelled

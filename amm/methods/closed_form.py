"""What the closed-form methods share: travel along the eigenvectors of the interference loss.

For one linear layer with task vectors τ_i (out × in) and factors F_i (r_i × in), i = 1 … K, the
loss

    L(τ) = Σ_i ‖(τ − τ_i) F_iᵀ‖²_F

is WUDI's with F_i = τ_i/‖τ_i‖_F. With C = Σ F_iᵀF_i and P = Σ_i (τ_i − τ⁰) F_iᵀF_i, minus half the
gradient at a start τ⁰, every linear way down from τ⁰ (gradient flow, momentum, ridge) ends at

    τ = τ⁰ + P g(C)                                                                        [D]

for a function g of C's eigenvalues: (1 − exp(−λt))/λ, a recursion, 1/(λ + a). Divided by the norms,
C has trace K at most, whatever the size of the weights, so λ, t and a mean the same for deltas of
RMS 1e-3 and of 1e-5, and scaling the experts by c scales τ by c.

Everything is float64: C squares the condition number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

RANK_TOLERANCE = 1e-6


def travel(
    terms: Iterable[tuple[Tensor, Tensor]],
    shape: tuple[int, int],
    apply: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """P g(C), in the cheaper of two exact forms.

    With S the F_i stacked and fewer rows in S than columns, P g(C) = B g(SSᵀ) S, where P = BS,
    which needs no in × in matrix.

    Args:
        terms: the pairs τ_i − τ⁰ (out × in) and F_i (r_i × in), float64.
        shape: (rows of S, in).
        apply: (x, m × n; symmetric matrix, n × n) → x g(matrix), m × n.

    Returns:
        τ − τ⁰, out × in.
    """
    rows, columns = shape
    if rows < columns:
        pulls, factors = zip(*((away @ f.T, f) for away, f in terms), strict=True)
        stack = torch.cat(factors)
        return apply(torch.cat(pulls, dim=1), stack @ stack.T) @ stack
    pull, curvature = torch.zeros(()), torch.zeros(())
    for away, factor in terms:
        gram = factor.T @ factor
        curvature = curvature + gram
        pull = pull + away @ gram
    return apply(pull, curvature)


def filtered(g: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """For `travel`: x g(matrix) by an eigendecomposition.

    Eigenvalues within rounding of 0 (n · eps · the largest) count as 0, and nothing travels along
    their eigenvectors: P has no part there.

    Args:
        g: eigenvalues, all positive, from small to large → as many factors.
    """

    def apply(x: Tensor, matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        values, vectors = values[kept], vectors[:, kept]
        return (x @ vectors * g(values)) @ vectors.T

    return apply


def norm_factors(vectors: Tensor, start: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """WUDI's terms: τ_i − τ⁰ and τ_i/‖τ_i‖_F, float64.

    Args:
        vectors: τ_i, K × out × in, none zero.
        start: τ⁰, out × in, float64.
    """
    for vector in vectors:
        vector = vector.double()
        yield vector - start, vector / vector.norm()


def thin_svd(matrix: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """U, singular values and Vᵀ without the directions in which the matrix is zero.

    There U and V are arbitrary, and a low-rank expert (a LoRA) has many. A singular value counts
    as 0 below `RANK_TOLERANCE` times the largest: float32 weights hold no less.

    Args:
        matrix: out × in, not zero, float64.
        rank: keep so many of the largest at most.

    Returns:
        out × r, r, r × in.
    """
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    kept = int((s > RANK_TOLERANCE * s[0]).sum())
    kept = kept if rank is None else min(kept, rank)
    return u[:, :kept], s[:kept], vh[:kept]


def shared_rank(vectors: Tensor) -> int:
    """⌊min(out, in)/K⌋, at least 1, for K × out × in."""
    return max(1, min(vectors.shape[1:]) // len(vectors))


def memory(shape: tuple[int, ...], experts: int) -> int:
    """An upper bound on the bytes that `travel` or a `thin_svd` of each expert takes.

    Args:
        shape: out × in.
        experts: K.
    """
    entries, stacked = shape[0] * shape[1], experts * shape[0]
    side = min(stacked, shape[1])
    stack = 3 * stacked * shape[1] if stacked < shape[1] else 0
    return 8 * (12 * entries + 6 * side**2 + stack) + 4 * experts * entries

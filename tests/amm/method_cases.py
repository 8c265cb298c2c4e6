"""What the tests of the merge methods share: task vectors, comparison, blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st
from torch import Tensor

from amm.methods import Place, get_method
from amm.methods.registry import TensorBlocks
from amm.settings import Settings

shapes = st.sampled_from([(2, 3, 11), (3, 7, 5), (2, 6, 6), (3, 4, 12), (4, 1, 3)])
"""K × out × in: fewer rows in all than columns, more, and square."""
seeds = st.integers(0, 2**16)
floats = st.sampled_from([np.float32, np.float64])
sizes = st.sampled_from([1, 7, 8, 9, 1023, 1024, 1025, 2050])
"""Around the sizes of the compiled loops' chunks."""


def draw(shape: tuple[int, ...], seed: int, rms: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return rms * torch.randn(shape, generator=generator, dtype=torch.float64)


def stacked(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """S and T of WUDI's loss ‖S τᵀ − T‖²: the normalised τ_i, and each times its τ_iᵀ."""
    norms = vectors.flatten(1).norm(dim=1)
    stack = torch.cat([t / n for t, n in zip(vectors, norms, strict=True)])
    return stack, torch.cat([(t / n) @ t.T for t, n in zip(vectors, norms, strict=True)])


def coarse(seed: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray:
    """Random numbers of which many are equal, opposite or zero."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype) / 8


def close(actual: Tensor, expected: Tensor, relative: float = 1e-9) -> None:
    assert actual.shape == expected.shape
    difference = (actual - expected).double().norm()
    assert difference <= relative * expected.double().norm(), difference / expected.norm()


def in_blocks(
    name: str,
    vectors: Tensor,
    settings: Settings,
    rows: int,
    tensor: str = "w",
    base: Tensor | None = None,
) -> Tensor:
    """Merge a tensor as the engine does: statistics first, then blocks of so many rows.

    The base is drawn, where a method needs one and none is given.
    """
    method = get_method(name)
    if method.base:
        base = draw(tuple(vectors.shape[1:]), 99) if base is None else base
        vectors = torch.cat([base[None].to(vectors), vectors])
    blocks = TensorBlocks(vectors, rows, method.base)
    statistics = method.measure(blocks, settings)
    merged, start = [], 0
    for block in blocks():
        merged.append(method(block, settings, Place(tensor, start, statistics)))
        start += block[0].numel()
    return torch.cat(merged)

"""TIES-Merging (arXiv 2306.01708): trim, elect signs, average what agrees.

    trim    of each τ_i keep the largest entries by magnitude, the share `density`            [V]
    elect   γ = sign(Σ_i τ_i) of what was kept, entry by entry                               [V]
    mean    τ = the mean of the kept entries whose sign is γ                                 [V]
    W = W_0 + scale · τ

Trimming is per tensor, as in mergekit; the paper's is per model. Entries as large as the last one
kept are kept as well, as in the authors' code [V], so that the result doesn't depend on an order;
at least one entry is kept [ours]. Where the kept entries cancel exactly γ is 0 and so is τ [V];
mergekit takes + there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from amm.loops import apply, kernel, visitor
from amm.methods.registry import Blocks, Kernel, Place, register
from amm.settings import Settings

_SAMPLED = 251
"""One entry in so many is sampled; prime, so that the sample is of all columns."""

_Floats = npt.NDArray[np.floating]


class TiesSettings(Settings):
    """Settings of TIES.

    Attributes:
        density: share of each task vector's entries that is kept [V].
        scale: W = W_0 + scale · τ; the paper's λ without held-out data [V].
    """

    density: float = Field(0.2, gt=0, le=1)
    scale: float = 1.0


def thresholds(blocks: Blocks, settings: TiesSettings) -> Tensor:
    """For each expert the magnitude of the smallest entry that is kept: the ⌊density·n⌋-th largest.

    Exact, and in little memory: a sample tells between which magnitudes it lies; in one pass over
    the tensor those above are counted and those between are collected (Floyd and Rivest, 1975).
    Where the sample misled, once more between wider ones.

    Args:
        blocks: of the tensor; float32 or float64.
        settings: the density.

    Returns:
        K magnitudes, in the dtype of the blocks.
    """
    samples: list[_Collected] = []
    for block in map(_flat, blocks(_SAMPLED)):
        dtype = block.dtype
        samples = samples or [_Collected(dtype) for _ in block]
        for vector, sample in zip(block, samples, strict=True):
            sample.add(abs(vector))
    found: list[float | None] = [None if len(sample) else 0.0 for sample in samples]
    middle = settings.density * len(samples[0])
    margin = 2 + 4 * math.sqrt(middle * (1 - settings.density))
    while None in found:
        bounds = np.array(
            [(s.largest(middle + margin, -1.0), s.largest(middle - margin)) for s in samples], dtype
        )
        counts = np.zeros((blocks.experts, 4), np.int64)
        between = [_Collected(dtype) for _ in samples]
        room = np.empty((blocks.experts, blocks.largest + 1), dtype)
        size = 0
        for added in blocks.visit(count_around, bounds, counts, room):
            for collected, magnitudes, count in zip(between, room, counts, strict=True):
                collected.add(magnitudes[: count[3]])
            counts[:, 3] = 0
            size += added
        rank = max(1, int(settings.density * size))
        found = [
            _ranked(rank, *of_expert) for of_expert in zip(bounds, counts, between, strict=True)
        ]
        margin *= 16
    return torch.from_numpy(np.array(found, dtype))


def _ranked(
    rank: int, bounds: _Floats, counts: npt.NDArray[np.int64], between: _Collected
) -> float | None:
    """The rank-th largest magnitude, by what was counted; None if it is outside the bounds."""
    (low, high), (above, at_high, at_low, _) = bounds, counts
    rank -= above
    if rank <= 0:
        return None
    if rank <= at_high:
        return high
    rank -= at_high
    if rank <= len(between):
        return between.largest(rank)
    return low if low < high and rank <= len(between) + at_low else None


@visitor
def count_around(
    vectors: npt.NDArray,
    size: int,
    bounds: npt.NDArray,
    counts: npt.NDArray[np.int64],
    between: npt.NDArray,
) -> None:
    """Count magnitudes above and at a higher bound and at a lower one, and collect those between.

    Args:
        vectors: (K, at least N) float32 or float64.
        size: N.
        bounds: (K, 2) of that dtype, the lower and the higher.
        counts: (K, 4), of each row how many are above the higher, at it, at the lower, and between;
            what is found is added.
        between: (K, …) of that dtype; gets the magnitudes between behind those that are there, and
            has room for one more.
    """
    inside = np.zeros(-(-size // 8) * 8, np.bool_)
    in_eight = inside.view(np.uint64)
    for k in range(len(vectors)):
        vector, low, high = vectors[k, :size], bounds[k, 0], bounds[k, 1]
        above = at_high = at_low = np.int32(0)  # in 64 bits four times slower
        for j in range(size):
            x = abs(vector[j])
            above = np.int32(above + np.int32(x > high))
            at_high = np.int32(at_high + np.int32(x == high))
            at_low = np.int32(at_low + np.int32(x == low))
            inside[j] = (x > low) & (x < high)
        counts[k, 0] += above
        counts[k, 1] += at_high
        counts[k, 2] += at_low
        collected = counts[k, 3]
        for eight in range(len(in_eight)):
            if in_eight[eight]:  # few are
                for j in range(8 * eight, min(8 * eight + 8, size)):
                    between[k, collected] = abs(vector[j])
                    collected += inside[j]
        counts[k, 3] = collected


def _flat(vectors: Tensor) -> _Floats:
    return vectors[..., None].flatten(1).numpy()  # K scalars too become K × 1


class _Collected:
    """Magnitudes in one growing piece of memory: many small ones would tear the heap to pieces."""

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // self._dtype.itemsize

    def add(self, magnitudes: _Floats) -> None:
        self._bytes += magnitudes.tobytes()

    def largest(self, rank: float, beyond: float = math.inf) -> float:
        """The rank-th largest; `beyond` if there is no such one, infinity above the first."""
        at = math.floor(rank)
        if at < 1:
            return math.inf
        if at > len(self):
            return beyond
        return float(np.partition(np.frombuffer(self._bytes, self._dtype), -at)[-at])


@kernel
def elected_mean(vectors: npt.NDArray, parameters: npt.NDArray, tau: npt.NDArray) -> None:
    """scale · the mean of the kept values that have the sign of their sum; 0 where that is 0.

    The parameters are the scale, then for each expert the magnitude from which on it is kept.
    """
    zero, one = tau.dtype.type(0), tau.dtype.type(1)
    scale = tau.dtype.type(parameters[0])
    size = len(tau)
    mass, sign, count = np.zeros(size), np.empty(size, tau.dtype), np.zeros(size, tau.dtype)
    for k in range(len(vectors)):
        vector, bound = vectors[k, :size], tau.dtype.type(parameters[1 + k])
        for j in range(size):
            mass[j] += vector[j] if abs(vector[j]) >= bound else zero
    for j in range(size):
        sign[j] = np.sign(mass[j])
        tau[j] = zero
    for k in range(len(vectors)):
        vector, bound = vectors[k, :size], tau.dtype.type(parameters[1 + k])
        for j in range(size):
            x = vector[j] * sign[j]
            agrees = (x > zero) & (x >= bound)
            tau[j] += x if agrees else zero
            count[j] += one if agrees else zero
    for j in range(size):
        tau[j] = scale * (tau[j] * sign[j] / max(count[j], one))


@register(
    "ties",
    settings=TiesSettings,
    tensors="all",
    elementwise=True,
    place=True,
    statistics=thresholds,
    kernel=Kernel(
        elected_mean, lambda settings, experts, bounds: (settings.scale, *bounds.tolist())
    ),
)
def ties(task_vectors: Tensor, settings: TiesSettings, place: Place) -> Tensor:
    """K × a block's shape on the CPU → scale · τ, that shape: trim, elect signs, average.

    `place.statistics`: the K `thresholds` of the whole tensor.
    """
    return disjoint_mean(task_vectors, settings.scale, place.statistics.tolist())


def disjoint_mean(vectors: Tensor, scale: float, bounds: Sequence[float]) -> Tensor:
    """Entry by entry, scale · the mean of those that have the sign of the sum.

    Args:
        vectors: K × any shape on the CPU, float32 or float64.
        scale: factor on the mean.
        bounds: K magnitudes: what is smaller counts as 0.

    Returns:
        That shape; 0 where the sum is.
    """
    mean = apply(elected_mean, (scale, *bounds), np.ascontiguousarray(_flat(vectors)))
    return torch.from_numpy(mean).view(vectors.shape[1:])

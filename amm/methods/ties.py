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

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from amm.methods.registry import Blocks, Place, register
from amm.settings import Settings

_SAMPLED = 61
"""One entry in so many is sampled; prime, so that the sample is of all columns."""

_Magnitudes = npt.NDArray[np.floating]


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

    Exact, and in little memory: a sample tells between which magnitudes it lies; in one more pass
    over the tensor those above are counted and those between are collected (Floyd and Rivest,
    1975). Where the sample misled, once more between wider ones.

    Args:
        blocks: starts a stream of K × block task vectors, float32 or float64.
        settings: the density.

    Returns:
        K magnitudes, in the dtype of the blocks, on the CPU.
    """
    stream = blocks()
    first = next(stream)
    dtype = np.dtype(str(first.dtype).removeprefix("torch."))
    samples = [_Collected(dtype) for _ in first]
    size = 0
    for block in itertools.chain([first], stream):
        for vector, sample in zip(block, samples, strict=True):
            sample.add(_magnitudes(vector)[-size % _SAMPLED :: _SAMPLED])
        size += block[0].numel()
    found: list[float | None] = [None if size else 0.0] * len(samples)
    count = max(1, int(settings.density * size))
    middle = settings.density * len(samples[0])
    margin = 2 + 4 * math.sqrt(middle * (1 - settings.density))
    while None in found:
        brackets = [
            _Bracket(sample.largest(middle + margin, -1.0), sample.largest(middle - margin), dtype)
            for sample in samples
        ]
        for block in blocks():
            for vector, bracket in zip(block, brackets, strict=True):
                bracket.add(_magnitudes(vector))
        found = [bracket.largest(count) for bracket in brackets]
        margin *= 16
    return torch.tensor(found, dtype=first.dtype)


def _magnitudes(vector: Tensor) -> _Magnitudes:
    return vector.abs().flatten().cpu().numpy()


class _Collected:
    """Magnitudes in one growing piece of memory: many small ones would tear the heap to pieces."""

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes) // self._dtype.itemsize

    def add(self, magnitudes: _Magnitudes) -> None:
        self._bytes += magnitudes.tobytes()

    def largest(self, rank: float, beyond: float = math.inf) -> float:
        """The rank-th largest; `beyond` if there is no such one, infinity above the first."""
        at = math.floor(rank)
        if at < 1:
            return math.inf
        if at > len(self):
            return beyond
        return float(np.partition(np.frombuffer(self._bytes, self._dtype), -at)[-at])


class _Bracket:
    """Counts magnitudes at and above a bound and at a lower one, and collects those between."""

    def __init__(self, low: float, high: float, dtype: np.dtype) -> None:
        self._low, self._high = low, high
        self._above = self._at_high = self._at_low = 0
        self._between = _Collected(dtype)

    def add(self, magnitudes: _Magnitudes) -> None:
        self._above += np.count_nonzero(magnitudes > self._high)
        self._at_high += np.count_nonzero(magnitudes == self._high)
        if self._low < self._high:
            self._at_low += np.count_nonzero(magnitudes == self._low)
            self._between.add(magnitudes[(magnitudes > self._low) & (magnitudes < self._high)])

    def largest(self, rank: int) -> float | None:
        """The rank-th largest of all; None if it is outside the bounds."""
        rank -= self._above
        if rank <= 0:
            return None
        if rank <= self._at_high:
            return self._high
        rank -= self._at_high
        if rank <= len(self._between):
            return self._between.largest(rank)
        return self._low if rank <= len(self._between) + self._at_low else None


@register(
    "ties",
    settings=TiesSettings,
    tensors="all",
    elementwise=True,
    place=True,
    statistics=thresholds,
)
def ties(task_vectors: Tensor, settings: TiesSettings, place: Place) -> Tensor:
    """TIES: trim each task vector, elect a sign for each entry, average what has that sign.

    Args:
        task_vectors: K × the block's shape, τ_i = W_i − W_0, float32 or float64.
        settings: see `TiesSettings`.
        place: its `statistics` are the K `thresholds` of the whole tensor.

    Returns:
        scale · τ, the block's shape.
    """
    below = torch.nextafter(place.statistics, torch.full_like(place.statistics, -1.0)).tolist()
    kept = torch.empty_like(task_vectors)
    for row, vector, bound in zip(kept, task_vectors, below, strict=True):
        torch.hardshrink(vector, bound, out=row)
    return settings.scale * disjoint_mean(kept)


def disjoint_mean(vectors: Tensor) -> Tensor:
    """Entry by entry, the mean of those that have the sign of the sum.

    Args:
        vectors: K × any shape, float32 or float64.

    Returns:
        That shape; 0 where the sum is.
    """
    mass = vectors[0].to(torch.float64, copy=True)
    for vector in vectors[1:]:
        mass += vector
    sign = mass.sign_().to(vectors.dtype)
    agreeing = (vectors * sign).relu_()
    total = functools.reduce(torch.add, agreeing)
    count = functools.reduce(torch.add, agreeing.sign())
    return total.mul_(sign).div_(count.clamp_min_(1))

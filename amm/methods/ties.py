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

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from amm.loops import count_around, elected_mean
from amm.methods.registry import Blocks, Place, register
from amm.settings import Settings

_SAMPLED = 61
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
        blocks: starts a stream of K × block task vectors on the CPU, float32 or float64.
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
        brackets = [
            _Bracket(sample.largest(middle + margin, -1.0), sample.largest(middle - margin), dtype)
            for sample in samples
        ]
        size = 0
        for block in map(_flat, blocks()):
            for vector, bracket in zip(block, brackets, strict=True):
                bracket.add(vector)
            size += block.shape[1]
        count = max(1, int(settings.density * size))
        found = [bracket.largest(count) for bracket in brackets]
        margin *= 16
    return torch.from_numpy(np.array(found, dtype))


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


class _Bracket:
    """Counts magnitudes at and above a bound and at a lower one, and collects those between."""

    def __init__(self, low: float, high: float, dtype: np.dtype) -> None:
        self._low, self._high = dtype.type(low), dtype.type(high)
        self._above = self._at_high = self._at_low = 0
        self._between = _Collected(dtype)

    def add(self, vector: _Floats) -> None:
        room = np.empty(len(vector) + 1, vector.dtype)
        above, at_high, at_low, between = count_around(vector, self._low, self._high, room)
        self._above += above
        self._at_high += at_high
        self._at_low += at_low if self._low < self._high else 0
        self._between.add(room[:between])

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
        task_vectors: K × the block's shape on the CPU, τ_i = W_i − W_0, float32 or float64.
        settings: see `TiesSettings`.
        place: its `statistics` are the K `thresholds` of the whole tensor.

    Returns:
        scale · τ, the block's shape.
    """
    return settings.scale * disjoint_mean(task_vectors, place.statistics)


def disjoint_mean(vectors: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Entry by entry, the mean of those that have the sign of the sum.

    Args:
        vectors: K × any shape on the CPU, float32 or float64.
        bounds: K magnitudes, of the same dtype: what is smaller counts as 0. None: nothing is.

    Returns:
        That shape; 0 where the sum is.
    """
    bounds = torch.zeros(len(vectors), dtype=vectors.dtype) if bounds is None else bounds
    mean = torch.empty_like(vectors[0])
    elected_mean(_flat(vectors), bounds.numpy(), mean.view(-1).numpy())
    return mean

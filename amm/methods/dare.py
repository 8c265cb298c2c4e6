"""DARE (arXiv 2311.03099): drop entries of the task vectors at random, rescale the rest.

    δ_i = m_i ⊙ τ_i / (1 − p),   m_i ~ Bernoulli(1 − p)                                      [V]
    then   `sum`: τ = Σ δ_i (task arithmetic);   `ties`: elected signs and disjoint mean of the δ_i
    W = W_0 + scale · τ

These are mergekit's `dare_linear` without normalisation and `dare_ties`; TIES's trimming isn't
applied, the drop takes its place.

Whether an entry is dropped follows from the seed, the tensor's name, the expert's position in the
list and the entry's index alone, by a counter-based generator (SplitMix64, Steele et al., OOPSLA
2014): not from how a tensor is cut into blocks, nor from device or thread count.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from amm.methods.registry import Place, register
from amm.methods.ties import disjoint_mean
from amm.settings import Settings

_CHUNK = 2**18

Then = Literal["sum", "ties"]


class DareSettings(Settings):
    """Settings of DARE.

    Attributes:
        drop: p, the share of entries that is dropped; 0.9 of the paper's main experiments [V].
        then: how the rest is merged.
        scale: W = W_0 + scale · τ.
        seed: of the drop.
    """

    drop: float = Field(0.9, ge=0, lt=1)
    then: Then = "sum"
    scale: float = 1.0
    seed: int = 0


@register("dare", settings=DareSettings, tensors="all", elementwise=True, place=True)
def dare(task_vectors: Tensor, settings: DareSettings, place: Place) -> Tensor:
    """K × a block's shape → scale · τ, that shape: drop by the dice of `place`, and merge."""
    thinned = torch.empty_like(task_vectors)
    for expert, vector in enumerate(task_vectors):
        keep = drawn(settings.seed, place, expert, vector, settings.drop)
        thinned[expert] = torch.where(keep, vector / (1 - settings.drop), 0)
    return merged(thinned, settings.then, settings.scale)


def merged(thinned: Tensor, then: Then, scale: float) -> Tensor:
    """What is left of the task vectors, added up or merged by TIES.

    Args:
        thinned: K × the block's shape.
        then: which.
        scale: factor on the result.
    """
    if then == "ties":
        return disjoint_mean(thinned, scale, [0.0] * len(thinned))
    return scale * thinned.sum(dim=0)


def drawn(seed: int, place: Place, expert: int, like: Tensor, drop: float | Tensor) -> Tensor:
    """Which entries of a block are kept, by the dice.

    Args:
        seed: of the drop.
        place: the block's.
        expert: position in the list.
        like: has the block's shape and device.
        drop: probability of False, below 1; one, or for each entry, float64.
    """
    bounds = drop if isinstance(drop, float) else drop.flatten().numpy()
    keep = kept(stream_key(seed, place.name, expert), place.start, like.numel(), bounds)
    return torch.from_numpy(keep).view(like.shape).to(like.device)


def stream_key(seed: int, name: str, expert: int) -> int:
    """A 64-bit key for one expert's copy of one tensor."""
    digest = hashlib.sha256(f"{seed}\n{expert}\n{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def kept(
    key: int, start: int, count: int, drop: float | npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Which of the entries start … start + count − 1 are kept.

    Args:
        key: of the stream, below 2⁶⁴.
        start: index of the first entry.
        count: number of entries.
        drop: probability of False, below 1; one, or `count`.

    Returns:
        `count` booleans.
    """
    keep = np.empty(count, dtype=np.bool_)
    bounds = np.broadcast_to((np.asarray(drop) * 2.0**64).astype(np.uint64), count)
    for at in range(0, count, _CHUNK):
        end = min(at + _CHUNK, count)
        x = np.arange(start + at + 1, start + end + 1, dtype=np.uint64)
        x *= np.uint64(0x9E3779B97F4A7C15)
        x += np.uint64(key)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x ^= x >> np.uint64(shift)
            x *= np.uint64(factor)
        x ^= x >> np.uint64(31)
        np.greater_equal(x, bounds[at:end], out=keep[at:end])
    return keep

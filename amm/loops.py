"""Loops over entries that torch and NumPy would need a dozen passes over memory for.

numba compiles each when it is first called, and keeps the result on the disk. Nothing is summed in
another order than the source says (no `fastmath`), so that the bytes don't depend on the processor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

_P = ParamSpec("_P")
_R = TypeVar("_R")

_CHUNK = 1024
"""Entries whose intermediate results stay in the first cache; the loops within become vectors."""


def _compiled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function, compiled at its first call: numba takes half a second to import."""

    @functools.cache
    def machine_code() -> Any:
        import numba

        try:
            return numba.njit(nogil=True, cache=True)(function)
        except RuntimeError:  # no folder to keep it in: neither this one nor the user's is writable
            return numba.njit(nogil=True)(function)

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return machine_code()(*args, **kwargs)

    return call


@_compiled
def elected_mean(vectors: npt.NDArray, bounds: npt.NDArray, mean: npt.NDArray) -> None:
    """Entry by entry, the mean of the kept values that have the sign of their sum; 0 where it is 0.

    Args:
        vectors: (K, N) float32 or float64; magnitudes from their row's bound on are kept.
        bounds: (K,) of that dtype.
        mean: (N,) of that dtype; is written.
    """
    experts, entries = vectors.shape
    zero, one = vectors.dtype.type(0), vectors.dtype.type(1)
    mass, sign = np.empty(_CHUNK, np.float64), np.empty(_CHUNK, vectors.dtype)
    total, count = np.empty(_CHUNK, vectors.dtype), np.empty(_CHUNK, vectors.dtype)
    for first in range(0, entries, _CHUNK):
        size = min(_CHUNK, entries - first)
        mass[:], total[:], count[:] = 0.0, zero, zero
        for k in range(experts):
            chunk, bound = vectors[k, first : first + size], bounds[k]
            for j in range(size):
                mass[j] += chunk[j] if abs(chunk[j]) >= bound else zero
        for j in range(size):
            sign[j] = np.sign(mass[j])
        for k in range(experts):
            chunk, bound = vectors[k, first : first + size], bounds[k]
            for j in range(size):
                x = chunk[j] * sign[j]
                agrees = (x > zero) & (x >= bound)
                total[j] += x if agrees else zero
                count[j] += one if agrees else zero
        merged = mean[first : first + size]
        for j in range(size):
            merged[j] = total[j] * sign[j] / max(count[j], one)


@_compiled
def count_around(
    vector: npt.NDArray, low: np.floating, high: np.floating, between: npt.NDArray
) -> tuple[int, int, int, int]:
    """Counts magnitudes above and at a higher bound and at a lower one, and collects those between.

    Args:
        vector: (N,) float32 or float64.
        low: of that dtype.
        high: of that dtype, at least `low`.
        between: (N + 1,) of that dtype; its first entries become the magnitudes between.

    Returns:
        How many are above `high`, at it, at `low`, and between them.
    """
    above = at_high = at_low = np.int32(0)  # in 64 bits four times slower
    for x in vector:
        above = np.int32(above + np.int32(abs(x) > high))
        at_high = np.int32(at_high + np.int32(abs(x) == high))
        at_low = np.int32(at_low + np.int32(abs(x) == low))
    collected = 0
    inside = np.zeros(_CHUNK, np.bool_)
    in_eight = inside.view(np.uint64)
    for first in range(0, len(vector), _CHUNK):
        chunk = vector[first : first + _CHUNK]
        for j in range(len(chunk)):
            inside[j] = (abs(chunk[j]) > low) & (abs(chunk[j]) < high)
        for eight in range((len(chunk) + 7) // 8):
            if in_eight[eight]:  # few are
                for j in range(8 * eight, min(8 * eight + 8, len(chunk))):
                    between[collected] = abs(chunk[j])
                    collected += inside[j]
    return above, at_high, at_low, collected


@_compiled
def difference(weights: npt.NDArray, start: npt.NDArray, vector: npt.NDArray) -> tuple[bool, bool]:
    """Writes weights − start into `vector`.

    Args:
        weights: (N,) float32 or float64.
        start: (N,) of that dtype.
        vector: (N,) of that dtype; is written.

    Returns:
        Whether all differences are finite, and whether one isn't zero.
    """
    largest = np.finfo(vector.dtype).max
    finite, moved = True, False
    for j in range(len(vector)):
        vector[j] = weights[j] - start[j]
        finite &= abs(vector[j]) <= largest
        moved |= vector[j] != 0
    return finite, moved


@_compiled
def bfloat16_difference(
    bits: npt.NDArray[np.int16], start: npt.NDArray[np.float32], vector: npt.NDArray[np.float32]
) -> tuple[bool, bool]:
    """As `difference`, of weights in bfloat16, which NumPy doesn't know: the upper half of float32.

    Args:
        bits: (N,) the weights' bits.
        start: (N,)
        vector: (N,); is written.

    Returns:
        Whether all differences are finite, and whether one isn't zero.
    """
    largest = np.finfo(np.float32).max
    finite, moved = True, False
    for j in range(len(vector)):
        weight = np.uint32(np.uint32(bits[j]) << np.uint32(16)).view(np.float32)
        vector[j] = weight - start[j]
        finite &= abs(vector[j]) <= largest
        moved |= vector[j] != 0
    return finite, moved


@_compiled
def count_changes(tau: npt.NDArray, merged: npt.NDArray, base: npt.NDArray) -> tuple[int, int]:
    """Counts entries that a merge moves, and those of them that rounding leaves moved.

    Args:
        tau: (N,) float32 or float64, what is added to the base.
        merged: (N,) the rounded sum's bits, as integers.
        base: (N,) the bits of the base, rounded to the same dtype.

    Returns:
        Both counts.
    """
    changed = kept = np.int32(0)
    for j in range(len(tau)):
        changed = np.int32(changed + np.int32(tau[j] != 0))
        kept = np.int32(kept + np.int32((tau[j] != 0) & (merged[j] != base[j])))
    return changed, kept

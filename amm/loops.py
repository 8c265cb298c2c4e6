"""Loops over entries that torch and NumPy would need a dozen passes over memory for.

numba compiles each when it is first needed, for the dtypes that are asked for, and keeps the result
on the disk. Nothing is summed in another order than the source says (no `fastmath`), so that the
bytes don't depend on the processor.

`merge_entries` and `visit` go through a block once, in chunks that stay in the first cache: first
the differences from the base, then what a method does with them. Each is handed on as a pointer to
machine code, which numba can keep on the disk for any method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

CHUNK = 1024
"""Entries whose intermediate results stay in the first cache; loops over them become vectors."""

Numbers = tuple[npt.NDArray, ...]
"""Entries of 1 + K tensors, W_0 and the W_i: (N,), C-contiguous and of one dtype. Floats, or int16
for the bits of bfloat16, the upper half of float32, which NumPy doesn't know."""


class Loop:
    """A function that numba compiles, apart for each choice of dtypes.

    Args:
        function: what is compiled; it may call NumPy's functions only.
        signature: (numba's types, then dtypes and numbers) → the signature.

    Attributes:
        compiled: (the same dtypes and numbers) → the machine code, to be called.
    """

    def __init__(self, function: Callable[..., Any], signature: Callable[..., Any]) -> None:
        self.function = function
        self.signature = signature
        self.compiled = functools.cache(self._compiled)
        self.__doc__ = function.__doc__

    def _compiled(self, *choice: np.dtype | int) -> Any:
        import numba  # takes half a second

        chosen = (x if isinstance(x, int) else numba.from_dtype(x) for x in choice)
        signature = self.signature(numba.types, *chosen)
        try:
            return numba.njit(signature, nogil=True, cache=True)(self.function)
        except RuntimeError:  # no folder to keep it in: neither this one nor the user's is writable
            return numba.njit(signature, nogil=True)(self.function)


def _loop(signature: Callable[..., Any]) -> Callable[[Callable[..., Any]], Loop]:
    return functools.partial(Loop, signature=signature)


def _kernel(t: Any, real: Any) -> Any:
    return t.void(real[:, ::1], t.float64[::1], real[::1])


def _visitor(t: Any, real: Any) -> Any:
    return t.void(real[:, ::1], t.intp, real[:, ::1], t.int64[:, ::1], real[:, ::1])


def _writer(t: Any, real: Any, stored: Any) -> Any:
    return t.Tuple((t.boolean, t.int64, t.int64))(real[::1], real[::1], stored[::1])


def _subtraction(t: Any, tensors: int, number: Any, real: Any) -> Any:
    numbers = t.UniTuple(number[::1], tensors)
    return t.UniTuple(t.boolean, 2)(numbers, real[::1], t.intp, real[::1], real[:, ::1])


def kernel(function: Callable[[npt.NDArray, npt.NDArray, npt.NDArray], None]) -> Loop:
    """Declare a method's work on some entries, compiled for float32 or float64.

    The function is called with K × at least N task vectors, or, for a method that asks for the
    base, W_0 and these, 1 + K; with any number of parameters in float64; and with N entries that it
    writes: what is added to the base.
    """
    return Loop(function, _kernel)


def visitor(function: Callable[..., None]) -> Loop:
    """Declare what a method looks for in a tensor, compiled for float32 or float64.

    The function is called with K × at least N task vectors, N, and three 2-D arrays to keep what it
    finds in: of that dtype, of int64, of that dtype.
    """
    return Loop(function, _visitor)


def apply(method: Loop, parameters: Sequence[float], vectors: npt.NDArray) -> npt.NDArray:
    """What a kernel makes of K × N task vectors, (N,) of their dtype."""
    tau = np.empty_like(vectors[0])
    method.compiled(vectors.dtype)(vectors, np.array(parameters, np.float64), tau)
    return tau


class Outcome(NamedTuple):
    """What `merge_entries` found.

    Attributes:
        finite: all task vectors are.
        moved: some task vector isn't zero.
        fits: all merged weights are finite.
        changed: entries that the merge moves, before rounding.
        kept: how many of them still differ from the base after rounding.
    """

    finite: bool
    moved: bool
    fits: bool
    changed: int
    kept: int


def merge_entries(
    method: Loop,
    parameters: Sequence[float],
    numbers: Numbers,
    weights: Sequence[float],
    merged: npt.NDArray,
    dtype: np.dtype,
    *,
    with_base: bool = False,
) -> Outcome:
    """Merge entry by entry: W_0 + what the method's kernel makes of the task vectors.

    Args:
        method: the kernel.
        parameters: its parameters.
        numbers: W_0, then the W_i.
        weights: K factors on the task vectors.
        merged: (N,) float32, float64, or int16 for bfloat16; is written.
        dtype: float32 or float64, for everything between.
        with_base: the kernel gets W_0 before the task vectors.
    """
    write = _write_bfloat16 if merged.dtype == np.int16 else _write
    stored = numbers[0].dtype
    merge = _merge_chunks.compiled(len(numbers), stored, dtype, merged.dtype)
    finite, moved, fits, changed, kept = merge(
        _differences.compiled(len(numbers), stored, dtype),
        method.compiled(dtype),
        write.compiled(dtype, merged.dtype),
        np.array(parameters, np.float64),
        numbers,
        np.array(weights, dtype),
        np.empty((len(numbers) + 1, CHUNK), dtype),
        1 if with_base else 2,
        merged,
    )
    return Outcome(bool(finite), bool(moved), bool(fits), changed, kept)


def visit(
    method: Loop,
    numbers: Numbers,
    weights: Sequence[float],
    keeps: Sequence[npt.NDArray],
) -> bool:
    """Show a method's visitor all task vectors, in the dtype of what it keeps.

    Args:
        method: the visitor.
        numbers: W_0, then the W_i.
        weights: K factors on the task vectors.
        keeps: its three arrays.

    Returns:
        Whether all task vectors are finite.
    """
    stored, dtype = numbers[0].dtype, keeps[0].dtype
    return bool(
        _visit_chunks.compiled(len(numbers), stored, dtype)(
            _differences.compiled(len(numbers), stored, dtype),
            method.compiled(dtype),
            numbers,
            np.array(weights, dtype),
            np.empty((len(numbers), CHUNK), dtype),
            *keeps,
        )
    )


def task_vectors(
    numbers: Numbers, weights: Sequence[float], dtype: np.dtype
) -> tuple[npt.NDArray, npt.NDArray, bool, bool]:
    """W_0 (N,) and the weighted task vectors (K, N); whether all of these are finite, and one isn't
    zero."""
    start = np.empty(len(numbers[0]), dtype)
    vectors = np.empty((len(numbers) - 1, len(start)), dtype)
    subtract = _differences.compiled(len(numbers), numbers[0].dtype, dtype)
    finite, moved = subtract(numbers, np.array(weights, dtype), 0, start, vectors)
    return start, vectors, bool(finite), bool(moved)


@_loop(_subtraction)
def _differences(
    numbers: Numbers, weights: npt.NDArray, first: int, start: npt.NDArray, vectors: npt.NDArray
) -> tuple[bool, bool]:
    """Write w_i (W_i − W_0) of some entries.

    Args:
        numbers: W_0, then the W_i.
        weights: (K,) of the dtype of `start`.
        first: of the entries.
        start: (n,) float32 or float64; becomes W_0 of the entries first … first + n − 1.
        vectors: (K, at least n) of that dtype; becomes the differences.

    Returns:
        Whether all differences are finite, and whether one isn't zero.
    """
    size = len(start)
    for i in range(len(numbers)):
        own = numbers[i][first : first + size]
        values = start if i == 0 else vectors[i - 1, :size]
        if own.itemsize == 2:
            for j in range(size):
                values[j] = np.uint32(np.uint32(own[j]) << np.uint32(16)).view(np.float32)
        else:
            for j in range(size):
                values[j] = own[j]
    largest = np.finfo(start.dtype).max
    finite, moved = True, False
    for k in range(len(vectors)):
        vector, weight = vectors[k, :size], weights[k]
        for j in range(size):
            vector[j] -= start[j]
            finite &= abs(vector[j]) <= largest
            moved |= vector[j] != 0
        if weight != 1:  # a second pass for these alone
            for j in range(size):
                vector[j] *= weight
                finite &= abs(vector[j]) <= largest
    return finite, moved


@_loop(_writer)
def _write_bfloat16(
    start: npt.NDArray, tau: npt.NDArray, merged: npt.NDArray[np.int16]
) -> tuple[bool, np.int32, np.int32]:
    """Write start + tau, rounded as torch does: by way of float32, half to even.

    Returns:
        Whether all fit, how many entries of tau aren't 0, and how many of these change the bits.
    """
    fits, changed, kept = True, np.int32(0), np.int32(0)
    half, one, up = np.uint32(0x7FFF), np.uint32(1), np.uint32(16)
    for j in range(len(tau)):
        before = np.float32(start[j]).view(np.uint32)
        odd = np.uint32(np.uint32(before >> up) & one)
        before = np.uint32(np.uint32(before + np.uint32(half + odd)) >> up)
        total = np.float32(start[j] + tau[j] if tau[j] != 0 else start[j])
        after = total.view(np.uint32)
        odd = np.uint32(np.uint32(after >> up) & one)
        after = np.uint32(np.uint32(after + np.uint32(half + odd)) >> up)
        merged[j] = np.int16(after)
        fits &= (total == total) & (np.uint32(after & np.uint32(0x7F80)) != np.uint32(0x7F80))
        changed = np.int32(changed + np.int32(tau[j] != 0))
        kept = np.int32(kept + np.int32((tau[j] != 0) & (before != after)))
    return fits, changed, kept


@_loop(_writer)
def _write(
    start: npt.NDArray, tau: npt.NDArray, merged: npt.NDArray
) -> tuple[bool, np.int32, np.int32]:
    """As `_write_bfloat16`, for float32 and float64."""
    largest = np.finfo(merged.dtype).max
    fits, changed, kept = True, np.int32(0), np.int32(0)
    for j in range(len(tau)):
        merged[j] = start[j]
        before = merged[j]
        merged[j] = start[j] + tau[j] if tau[j] != 0 else start[j]
        fits &= abs(merged[j]) <= largest
        changed = np.int32(changed + np.int32(tau[j] != 0))
        kept = np.int32(kept + np.int32((tau[j] != 0) & (before != merged[j])))
    return fits, changed, kept


@_loop(
    lambda t, tensors, number, real, stored: t.Tuple(
        (t.boolean, t.boolean, t.boolean, t.int64, t.int64)
    )(
        t.FunctionType(_subtraction(t, tensors, number, real)),
        t.FunctionType(_kernel(t, real)),
        t.FunctionType(_writer(t, real, stored)),
        t.float64[::1],
        t.UniTuple(number[::1], tensors),
        real[::1],
        real[:, ::1],
        t.intp,
        stored[::1],
    )
)
def _merge_chunks(
    subtract: Any,
    method: Any,
    write: Any,
    parameters: npt.NDArray[np.float64],
    numbers: Numbers,
    weights: npt.NDArray,
    room: npt.NDArray,
    first_row: int,
    merged: npt.NDArray,
) -> tuple[bool, bool, bool, int, int]:
    all_finite, any_moved, all_fit, all_changed, all_kept = True, False, True, 0, 0
    vectors, given = room[2:], room[first_row:]
    for first in range(0, len(merged), room.shape[1]):
        size = min(room.shape[1], len(merged) - first)
        tau, start = room[0, :size], room[1, :size]
        finite, moved = subtract(numbers, weights, first, start, vectors)
        method(given, parameters, tau)
        fits, changed, kept = write(start, tau, merged[first : first + size])
        all_finite &= finite
        any_moved |= moved
        all_fit &= fits
        all_changed += changed
        all_kept += kept
    return all_finite, any_moved, all_fit, all_changed, all_kept


@_loop(
    lambda t, tensors, number, real: t.boolean(
        t.FunctionType(_subtraction(t, tensors, number, real)),
        t.FunctionType(_visitor(t, real)),
        t.UniTuple(number[::1], tensors),
        real[::1],
        real[:, ::1],
        real[:, ::1],
        t.int64[:, ::1],
        real[:, ::1],
    )
)
def _visit_chunks(
    subtract: Any,
    method: Any,
    numbers: Numbers,
    weights: npt.NDArray,
    room: npt.NDArray,
    bounds: npt.NDArray,
    counts: npt.NDArray[np.int64],
    found: npt.NDArray,
) -> bool:
    all_finite, vectors, entries = True, room[1:], len(numbers[0])
    for first in range(0, entries, room.shape[1]):
        size = min(room.shape[1], entries - first)
        finite, _ = subtract(numbers, weights, first, room[0, :size], vectors)
        method(vectors, size, bounds, counts, found)
        all_finite &= finite
    return all_finite


@_loop(lambda t, real, bits: t.UniTuple(t.int64, 2)(real[::1], bits[::1], bits[::1]))
def count_changes(
    tau: npt.NDArray, merged: npt.NDArray, base: npt.NDArray
) -> tuple[np.int32, np.int32]:
    """Count entries that a merge moves, and those of them that rounding leaves moved.

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

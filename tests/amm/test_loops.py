"""The compiled loops against NumPy and torch."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import coarse, floats, seeds, sizes

from amm import loops
from amm.loops import (
    apply,
    count_changes,
    merge_entries,
    task_vectors,
    visit,
)
from amm.methods.task_arithmetic import scaled_sum
from amm.methods.ties import count_around, elected_mean

experts = st.integers(1, 3)
saved = st.sampled_from([torch.bfloat16, torch.float32, torch.float64])


def weights(seed, shape, dtype):
    """Base and experts, of which some entries are equal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.2, drawn[0], drawn).to(dtype)


def as_numbers(tensors):
    bits = tensors.view(torch.int16) if tensors.dtype == torch.bfloat16 else tensors
    return tuple(bits.numpy())


@given(seeds, sizes, experts, floats)
def test_a_scaled_sum_is_torchs_bit_for_bit(seed, size, experts, dtype):
    vectors = np.random.default_rng(seed).standard_normal((experts, size)).astype(dtype)
    total = sum(torch.from_numpy(vectors[1:]), start=torch.from_numpy(vectors[0]))
    assert np.array_equal(apply(scaled_sum, (0.3, 3), vectors), (0.3 * total / 3).numpy())


@given(seeds, sizes, experts, floats, saved)
def test_task_vectors_are_torchs_differences(seed, size, experts, dtype, stored):
    drawn = weights(seed, (1 + experts, size), stored)
    if stored == torch.float64:
        drawn = drawn.to(getattr(torch, dtype.__name__))
    start, vectors, finite, moved = task_vectors(
        as_numbers(drawn), [1.0] * experts, np.dtype(dtype)
    )
    wide = drawn.to(getattr(torch, dtype.__name__))
    assert np.array_equal(start, wide[0].numpy()) and start.dtype == dtype
    assert np.array_equal(vectors, (wide[1:] - wide[0]).numpy())
    assert (finite, moved) == (True, bool((wide[1:] != wide[0]).any()))


@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.sampled_from([*range(7)]))
def test_any_float_is_read_from_bfloat16_and_written_to_it_as_torch_does(values, exponent):
    """Infinities, NaNs, subnormals and ties of rounding; the base, as nothing is added."""
    base = torch.tensor(values).bfloat16()
    start, _, finite, moved = task_vectors(
        as_numbers(base.repeat(2, 1)), [1.0], np.dtype(np.float32)
    )
    assert torch.equal(torch.from_numpy(start).nan_to_num(9.0), base.float().nan_to_num(9.0))
    assert (finite, moved) == (bool(base.isfinite().all()), not base.isfinite().all())

    wide = torch.tensor(values) * 2.0**-exponent
    merged = torch.empty(len(wide), dtype=torch.bfloat16)
    same = tuple(wide.repeat(2, 1).numpy())
    outcome = merge_entries(
        scaled_sum, (1, 1), same, [1.0], merged.view(torch.int16).numpy(), np.dtype(np.float32)
    )
    assert outcome.finite == bool(wide.isfinite().all())
    if outcome.finite:
        assert torch.equal(merged.view(torch.int16), wide.bfloat16().view(torch.int16))
        assert outcome.fits == bool(wide.bfloat16().isfinite().all())
        assert not outcome.moved and outcome.changed == outcome.kept == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 5, 2000])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_entry_that_isnt_finite_is_seen_wherever_it_is(value, at, dtype):
    drawn = torch.zeros(3, 2001, dtype=dtype)
    drawn[2, at] = value
    numbers = as_numbers(drawn)
    assert task_vectors(numbers, [1.0, 1.0], np.dtype(np.float32))[2] is False
    merged = np.empty(2001, np.float32)
    assert not merge_entries(
        scaled_sum, (1, 1), numbers, [1.0, 1.0], merged, np.dtype(np.float32)
    ).finite
    keeps = np.zeros((2, 2), np.float32), np.zeros((2, 4), np.int64), np.empty((2, 2002), "f")
    assert not visit(count_around, numbers, [1.0, 1.0], keeps)


@given(seeds, sizes, experts, floats, saved, saved)
def test_a_merge_is_torchs_rounded_once_and_counted(seed, size, experts, dtype, stored, target):
    real = getattr(torch, dtype.__name__)
    drawn = weights(seed, (1 + experts, size), stored).to(
        stored if stored.itemsize <= real.itemsize else real
    )
    merged = torch.empty(size, dtype=target)
    written = merged.view(torch.int16) if target == torch.bfloat16 else merged
    outcome = merge_entries(
        scaled_sum, (2**-9, 1), as_numbers(drawn), [1.0] * experts, written.numpy(), np.dtype(dtype)
    )
    wide = drawn.to(real)
    tau = 2**-9 * sum(wide[1:] - wide[0])
    base, expected = wide[0].to(target), (wide[0] + tau).to(target)
    assert torch.equal(merged, expected)
    assert outcome.finite and outcome.fits
    assert outcome.moved == bool((wide[1:] != wide[0]).any())
    assert outcome.changed == (tau != 0).sum()
    assert outcome.kept == ((tau != 0) & (expected != base)).sum()


def test_what_nothing_is_added_to_keeps_its_sign():
    numbers = as_numbers(torch.tensor([[-0.0, 1.0], [-0.0, 2.0]]).bfloat16())
    merged = torch.empty(2, dtype=torch.bfloat16)
    merge_entries(
        scaled_sum, (1, 1), numbers, [1.0], merged.view(torch.int16).numpy(), np.dtype(np.float32)
    )
    assert merged.signbit().tolist() == [True, False] and merged.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("target", [torch.bfloat16, torch.float32])
def test_a_sum_that_the_saved_dtype_cannot_hold_is_seen(target):
    numbers = as_numbers(torch.tensor([[0.0] * 1500, [3e38] * 1500]))
    merged = torch.zeros(1500, dtype=target)
    written = merged.view(torch.int16) if target == torch.bfloat16 else merged
    outcome = merge_entries(
        scaled_sum, (2, 1), numbers, [1.0], written.numpy(), np.dtype(np.float32)
    )
    assert outcome.finite and not outcome.fits


@given(seeds, sizes, floats, st.sampled_from([np.int16, np.int32, np.int64]))
def test_changes_are_counted_before_and_after_rounding(seed, size, dtype, bits):
    tau, merged = coarse(seed, size, dtype), coarse(seed + 1, size, dtype)
    changed = tau != 0
    merged, base = (8 * merged).astype(bits), np.zeros(size, bits)
    count = count_changes.compiled(np.dtype(dtype), np.dtype(bits))
    assert count(tau, merged, base) == (changed.sum(), (changed & (merged != 0)).sum())


def test_a_loop_runs_where_nothing_can_be_kept_on_the_disk(monkeypatch):
    """As in a container with a read-only file system; numba refuses to cache there."""
    njit = numba.njit

    def refusing(signature, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(signature, **options)

    monkeypatch.setattr(numba, "njit", refusing)
    loop = loops.kernel(elected_mean.function)
    assert apply(loop, (1.0, 0.0), np.array([[2.0, -3.0]])).tolist() == [2.0, -3.0]

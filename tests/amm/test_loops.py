"""The compiled loops against NumPy and torch."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amm import loops
from amm.loops import (
    bfloat16_difference,
    count_around,
    count_changes,
    difference,
    elected_mean,
)

dtypes = st.sampled_from([np.float32, np.float64])
sizes = st.sampled_from([1, 7, 8, 9, 1023, 1024, 1025, 2050])
"""Around the sizes of the loops' chunks."""
seeds = st.integers(0, 2**16)


def coarse(seed, shape, dtype):
    """Random numbers of which many are equal, opposite or zero."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype) / 8


@given(seeds, sizes, st.integers(1, 5), dtypes)
def test_the_elected_mean_is_that_of_the_papers_words(seed, size, experts, dtype):
    vectors = coarse(seed, (experts, size), dtype)
    bounds = np.abs(coarse(seed + 1, experts, dtype))
    mean = np.empty(size, dtype)
    elected_mean(vectors, bounds, mean)
    kept = np.where(np.abs(vectors) >= bounds[:, None], vectors, 0)
    agreeing = np.where(kept * kept.sum(0) > 0, kept, 0)
    expected = agreeing.sum(0) / np.maximum((agreeing != 0).sum(0), 1)
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


@given(seeds, sizes, dtypes, st.integers(0, 4), st.integers(0, 4))
def test_magnitudes_around_two_bounds_are_counted_and_collected_in_order(
    seed, size, dtype, low, width
):
    vector = coarse(seed, size, dtype)
    low, high = dtype(low / 8), dtype((low + width) / 8)
    between = np.empty(size + 1, dtype)
    above, at_high, at_low, collected = count_around(vector, low, high, between)
    found = np.abs(vector)
    assert above == (found > high).sum()
    assert (at_high, at_low) == ((found == high).sum(), (found == low).sum())
    assert np.array_equal(between[:collected], found[(found > low) & (found < high)])


@given(seeds, sizes, dtypes)
def test_a_difference_is_numpys(seed, size, dtype):
    weights, start = coarse(seed, size, dtype), coarse(seed + 1, size, dtype)
    vector = np.empty(size, dtype)
    assert difference(weights, start, vector) == (True, bool((weights != start).any()))
    assert np.array_equal(vector, weights - start)


@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=40))
def test_bfloat16_weights_are_widened_exactly(values):
    weights = torch.tensor(values, dtype=torch.bfloat16)
    start = torch.full_like(weights, 0.5, dtype=torch.float32)
    vector = torch.empty_like(start)
    bits = weights.view(torch.int16).numpy()
    finite, moved = bfloat16_difference(bits, start.numpy(), vector.numpy())
    expected = weights.float() - start
    assert torch.equal(vector, expected)
    assert (finite, moved) == (bool(expected.isfinite().all()), bool(expected.any()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 5, 16])
def test_an_entry_that_isnt_finite_is_seen_wherever_it_is(value, at):
    weights = torch.zeros(17)
    weights[at] = value
    start, vector = np.zeros(17, np.float32), np.empty(17, np.float32)
    assert difference(weights.numpy(), start, vector)[0] is False
    bits = weights.bfloat16().view(torch.int16).numpy()
    assert bfloat16_difference(bits, start, vector)[0] is False


@given(seeds, sizes, dtypes, st.sampled_from([np.int16, np.int32, np.int64]))
def test_changes_are_counted_before_and_after_rounding(seed, size, dtype, bits):
    tau, merged = coarse(seed, size, dtype), coarse(seed + 1, size, dtype)
    changed = tau != 0
    merged, base = (8 * merged).astype(bits), np.zeros(size, bits)
    assert count_changes(tau, merged, base) == (changed.sum(), (changed & (merged != 0)).sum())


def test_a_loop_runs_where_nothing_can_be_kept_on_the_disk(monkeypatch):
    """As in a container with a read-only file system; numba refuses to cache there."""
    njit = numba.njit

    def refusing(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    monkeypatch.setattr(numba, "njit", refusing)
    assert loops._compiled(lambda x: x + 1)(1) == 2

"""TIES against a loop written from the paper, and its thresholds against a full sort."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, coarse, draw, floats, in_blocks, seeds, sizes

from amm.loops import apply, visit
from amm.methods.registry import TensorBlocks
from amm.methods.ties import TiesSettings, count_around, disjoint_mean, elected_mean, thresholds

densities = st.sampled_from([1e-3, 0.1, 0.2, 0.37, 0.5, 1.0])
dtypes = st.sampled_from([torch.float32, torch.float64])


def reference(vectors, density, scale=1.0):
    """Entry by entry, in plain Python: trim by sorting, elect, average."""
    flat = vectors.flatten(1).double().numpy()
    trimmed = np.zeros_like(flat)
    for row, kept in zip(flat, trimmed, strict=True):
        count = max(1, int(density * len(row)))
        last = sorted(abs(row), reverse=True)[count - 1]
        for j, value in enumerate(row):
            kept[j] = value if abs(value) >= last else 0
    merged = []
    for column in trimmed.T:
        mass = sum(column)
        agree = [value for value in column if value * mass > 0]
        merged.append(scale * sum(agree) / len(agree) if agree else 0.0)
    return torch.tensor(merged).view(vectors.shape[1:])


@given(seeds, sizes, st.integers(1, 3), floats)
def test_the_elected_mean_is_that_of_the_papers_words(seed, size, experts, dtype):
    vectors = coarse(seed, (experts, size), dtype)
    bounds = np.abs(coarse(seed + 1, experts, dtype))
    mean = apply(elected_mean, (0.5, *bounds), vectors)
    kept = np.where(np.abs(vectors) >= bounds[:, None], vectors, 0)
    agreeing = np.where(kept * kept.sum(0) > 0, kept, 0)
    expected = agreeing.sum(0) / np.maximum((agreeing != 0).sum(0), 1)
    assert mean.dtype == dtype
    np.testing.assert_allclose(mean, 0.5 * expected, rtol=1e-6)


@given(seeds, sizes, floats, st.integers(0, 4), st.integers(0, 4))
def test_magnitudes_around_two_bounds_are_counted_and_collected_in_order(
    seed, size, dtype, low, width
):
    vectors = coarse(seed, (2, size), dtype)
    low, high = dtype(low / 8), dtype((low + width) / 8)
    bounds = np.array([(low, high), (high, high)], dtype)
    counts, between = np.zeros((2, 4), np.int64), np.empty((2, size + 1), dtype)
    assert visit(
        count_around,
        (np.zeros(size, dtype), *vectors),
        [1.0] * len(vectors),
        (bounds, counts, between),
    )
    for row, (low, high), count, collected in zip(vectors, bounds, counts, between, strict=True):
        found = np.abs(row)
        inside = found[(found > low) & (found < high)]
        expected = ((found > high).sum(), (found == high).sum(), (found == low).sum(), len(inside))
        assert tuple(count) == expected
        assert np.array_equal(collected[: len(inside)], inside)


@given(seeds, densities, dtypes, st.integers(1, 9))
def test_is_the_papers_procedure_in_blocks_of_any_size(seed, density, dtype, rows):
    vectors = draw((3, 9, 7), seed, 1e-3).to(dtype)
    merged = in_blocks("ties", vectors, TiesSettings(density=density), rows)
    close(merged.double(), reference(vectors, density), 1e-6)
    assert torch.equal(merged, in_blocks("ties", vectors, TiesSettings(density=density), 9))


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.floats(0.01, 1.0),
    dtypes,
    st.integers(1, 20),
)
def test_thresholds_are_exact_for_all_floats(values, density, dtype, rows):
    """Zeros, subnormals and equal magnitudes too; bit for bit."""
    vectors = torch.tensor([values, values[::-1]], dtype=dtype)
    found = thresholds(TensorBlocks(vectors, rows), TiesSettings(density=density))
    count = max(1, int(density * len(values)))
    expected = vectors.abs().sort(dim=1, descending=True).values[:, count - 1]
    assert torch.equal(found, expected) and found.dtype == dtype


@pytest.mark.parametrize("density", [0.01, 0.2, 0.9])
@pytest.mark.parametrize("levels", [1, 3, 40, 10**6])
def test_thresholds_are_exact_where_many_magnitudes_are_equal(levels, density):
    vectors = (draw((2, 300, 200), 0).float() * levels).round() / levels
    vectors[1] = vectors[1].flatten().sort().values.view(300, 200)  # a sample of it is misled
    found = thresholds(TensorBlocks(vectors, 7), TiesSettings(density=density))
    expected = vectors.abs().flatten(1).sort(dim=1, descending=True).values
    assert torch.equal(found, expected[:, int(density * 60_000) - 1])


def test_equal_magnitudes_at_the_limit_are_all_kept():
    vectors = torch.tensor([[3.0, -1.0, 1.0, 1.0, 0.5]])
    merged = in_blocks("ties", vectors[:, :, None], TiesSettings(density=0.4), 2)[:, 0]
    assert merged.tolist() == [3.0, -1.0, 1.0, 1.0, 0.0]


def test_fewer_moved_entries_than_the_density_are_all_kept():
    vectors = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0]])
    merged = in_blocks("ties", vectors[:, :, None], TiesSettings(density=0.8), 5)[:, 0]
    assert merged.tolist() == [0.0, 2.0, 0.0, 0.0, 0.0]


def test_opposite_entries_of_equal_size_cancel():
    assert disjoint_mean(torch.tensor([[1.0, 2.0], [-1.0, 4.0]]), 1.0, [0, 0]).tolist() == [
        0.0,
        3.0,
    ]


def test_the_minority_sign_does_not_count():
    """Mass elects, not the number of experts."""
    assert disjoint_mean(torch.tensor([[-9.0], [2.0], [3.0]]), 1.0, [0, 0, 0]).tolist() == [-9.0]


@pytest.mark.parametrize("shape", [(2,), (2, 0), (2, 0, 3), (2, 1)])
def test_scalars_and_empty_tensors(shape):
    vectors = torch.full(shape, 2.0)
    statistics = thresholds(TensorBlocks(vectors, 9), TiesSettings())
    assert statistics.tolist() == [2.0 if vectors.numel() else 0.0] * 2


def test_scale_multiplies_the_task_vector():
    vectors = draw((2, 6, 4), 0)
    half = in_blocks("ties", vectors, TiesSettings(scale=0.5), 6)
    assert torch.equal(half, 0.5 * in_blocks("ties", vectors, TiesSettings(), 6))

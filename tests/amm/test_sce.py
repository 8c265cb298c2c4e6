"""SCE against the paper's three steps, entry by entry."""

import pytest
import torch
from hypothesis import given
from method_cases import close, draw, in_blocks, seeds, shapes

import amm
from amm.methods.sce import SceSettings


def reference(vectors, density):
    """Sorting all variances, then plain Python."""
    flat = vectors.flatten(1).double()
    variance = flat.var(dim=0, correction=0)
    order = variance.argsort(descending=True)
    selected = set(order[: max(1, int(density * int((variance > 0).sum())))].tolist())
    squares = [sum(float(row[j]) ** 2 for j in selected) for row in flat]
    weights = [square / sum(squares) for square in squares]
    merged = []
    for j in range(flat.shape[1]):
        values = flat[:, j].tolist() if j in selected else [0.0] * len(flat)
        sign = 1 if sum(values) > 0 else -1
        left = [(w, v) for w, v in zip(weights, values, strict=True) if v * sign > 0]
        total = sum(w for w, _ in left)
        merged.append(sum(w * v for w, v in left) / total if left else 0.0)
    return torch.tensor(merged, dtype=vectors.dtype).view(vectors.shape[1:])


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1, 100])
@given(shapes, seeds)
def test_it_is_select_calculate_erase(density, rows, shape, seed):
    vectors = draw(shape, seed)
    settings = SceSettings(density=density, scale=0.5)
    close(in_blocks("sce", vectors, settings, rows), 0.5 * reference(vectors, density))


def test_entries_that_no_expert_moved_do_not_count_in_the_density():
    vectors = draw((3, 8, 6), 0)
    sparse = torch.zeros(3, 80, 6, dtype=torch.float64)
    sparse[:, ::10] = vectors
    merged = amm.merge_tensors("sce", sparse, density=0.5)
    close(merged[::10], amm.merge_tensors("sce", vectors, density=0.5))
    assert not merged[1::10].any()


def test_equal_experts_give_that_expert():
    expert = draw((5, 4), 0)
    close(amm.merge_tensors("sce", torch.stack([expert] * 3), density=0.1), expert)

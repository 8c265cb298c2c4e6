"""RAM and RAM+ against the paper's words, entry by entry."""

import pytest
import torch
from hypothesis import given
from method_cases import close, draw, in_blocks, seeds, shapes

import amm
from amm.methods.ram import RamSettings


def reference(vectors, threshold, boost):
    """Plain Python over entries."""
    flat = vectors.flatten(1).tolist()
    changed = [[abs(x) > threshold for x in row] for row in flat]
    counts = [sum(column) for column in zip(*changed, strict=True)]
    factors = []
    for row in changed:
        unique = sum(c and n == 1 for c, n in zip(row, counts, strict=True))
        overlap = sum(c and n > 1 for c, n in zip(row, counts, strict=True))
        share = min(1.0, overlap / unique) if unique else float(overlap > 0)
        factors.append(1 + (boost - 1) * share)
    merged = []
    for entry, count in enumerate(counts):
        values = [(x[entry], f) for x, c, f in zip(flat, changed, factors, strict=True) if c[entry]]
        if count > 1:
            merged.append(sum(x for x, _ in values) / count)
        else:
            merged.append(sum(f * x for x, f in values))
    return torch.tensor(merged, dtype=vectors.dtype).view(vectors.shape[1:])


@pytest.mark.parametrize("boost", [1.0, 1.2])
@pytest.mark.parametrize("rows", [1, 100])
@given(shapes, seeds)
def test_it_is_the_papers_rule(boost, rows, shape, seed):
    vectors = draw(shape, seed)
    settings = RamSettings(threshold=0.8, boost=boost, scale=0.5)
    close(in_blocks("ram", vectors, settings, rows), 0.5 * reference(vectors, 0.8, boost))


def test_published_threshold_and_boost():
    assert (RamSettings().threshold, RamSettings().boost) == (1e-5, 1.0)
    vectors = torch.tensor([[2e-5, 2e-5, 9e-6, 0.0], [4e-5, 9e-6, 9e-6, 0.0]])
    merged = amm.merge_tensors("ram", vectors)
    close(merged, torch.tensor([3e-5, 2e-5, 0.0, 0.0]), 1e-6)
    boosted = amm.merge_tensors("ram", vectors, boost=1.2)
    close(boosted, torch.tensor([3e-5, 2.4e-5, 0.0, 0.0]), 1e-6)


def test_a_relative_threshold_is_in_units_of_the_common_rms():
    vectors = draw((3, 8, 6), 0)
    rms = vectors.square().mean().sqrt().item()
    close(
        amm.merge_tensors("ram", vectors, threshold=0.7, relative=True),
        amm.merge_tensors("ram", vectors, threshold=0.7 * rms),
    )


def test_what_all_changed_is_averaged_and_what_one_changed_alone_is_kept_whole():
    vectors = draw((3, 4, 5), 0)
    close(amm.merge_tensors("ram", vectors), vectors.mean(0))
    apart = torch.zeros(3, 3, 4, dtype=torch.float64)
    for i in range(3):
        apart[i, i] = draw((4,), i)
    close(amm.merge_tensors("ram", apart, boost=1.2), apart.sum(0))

"""DELLA: chances by rank within a row, drops that depend on nothing but names and numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, in_blocks, seeds
from test_dare import WORD, splitmix

import amm
from amm.errors import InputError
from amm.methods.dare import DareSettings, stream_key
from amm.methods.della import DellaSettings


def reference(vectors, settings, name):
    """Row by row and entry by entry, in plain Python."""
    shape = vectors.shape[1:]
    row, thinned = (shape[-1] if shape else 1), []
    for i, vector in enumerate(vectors):
        entries, left = vector.flatten().tolist(), []
        for j, value in enumerate(entries):
            at = j // row * row
            ranked = sorted(range(at, at + row), key=lambda k, e=entries: (abs(e[k]), k))
            middle = ranked.index(j) / (row - 1) - 0.5 if row > 1 else 0
            chance = 1 - settings.drop + settings.window * middle
            keep = splitmix(stream_key(settings.seed, name, i), j) >= (1 - chance) * WORD
            left.append(value / chance if keep else 0.0)
        thinned.append(left)
    merged = []
    for column in zip(*thinned, strict=True):
        if settings.then == "ties":
            column = [value for value in column if value * sum(column) > 0]
            column = [sum(column) / len(column)] if column else []
        merged.append(settings.scale * sum(column))
    return torch.tensor(merged, dtype=vectors.dtype).view(shape)


@given(
    seeds,
    st.sampled_from([(0.1, 0.2), (0.3, 0.14), (0.5, 0.0), (0.6, 0.7)]),
    st.sampled_from(["sum", "ties"]),
    st.sampled_from([(7, 5), (23,), (6, 3, 4), (4, 1)]),
    st.integers(1, 7),
)
def test_follows_the_definition_in_blocks_of_any_size(seed, chances, then, shape, rows):
    vectors = draw((3, *shape), seed)
    drop, window = chances
    settings = DellaSettings(drop=drop, window=window, then=then, seed=seed, scale=0.5)
    merged = in_blocks("della", vectors, settings, rows, "a.weight")
    close(merged, reference(vectors, settings, "a.weight"))


@given(seeds, st.sampled_from(["sum", "ties"]))
def test_without_a_window_it_is_dare(seed, then):
    vectors, common = draw((3, 7, 5), seed), {"drop": 0.4, "then": then, "seed": seed}
    close(
        in_blocks("della", vectors, DellaSettings(window=0, **common), 3),
        in_blocks("dare", vectors, DareSettings(**common), 3),
    )


def test_a_stack_is_merged_as_its_matrices_would_be_ranked():
    stack, settings = draw((2, 3, 4, 5), 0), DellaSettings(then="sum")
    flat = in_blocks("della", stack.flatten(1, 2), settings, 12)
    assert torch.equal(in_blocks("della", stack, settings, 1).flatten(0, 1), flat)


def test_large_entries_are_kept_more_often_and_the_expectation_is_the_sum():
    vectors = torch.arange(1.0, 5.0).expand(1, 200_000, 4)
    settings = {"drop": 0.5, "window": 0.6, "then": "sum"}
    merged = amm.merge_tensors("della", vectors, **settings)
    chances = torch.tensor([0.2, 0.4, 0.6, 0.8])
    assert torch.allclose((merged != 0).float().mean(dim=0), chances, atol=0.006)
    assert torch.allclose(merged.mean(dim=0), vectors[0, 0], atol=0.06)


def test_scalars_are_rows_of_one():
    merged = amm.merge_tensors("della", torch.tensor([2.0, 4.0]), drop=1e-9, window=0, then="sum")
    assert float(merged) == pytest.approx(6.0)


@pytest.mark.parametrize(("drop", "window"), [(0.05, 0.2), (0.95, 0.2), (0.5, 1.0)])
def test_chances_beyond_0_and_1_are_refused(drop, window):
    with pytest.raises(InputError, match="window"):
        amm.merge_tensors("della", torch.ones(2, 3, 4), drop=drop, window=window)

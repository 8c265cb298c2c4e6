"""Ridge against the augmented least-squares problem that it solves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, seeds, shapes, stacked

from amm.errors import InputError
from amm.methods.ridge import RidgeSettings, ridge


def augmented(vectors, a, anchor):
    """min ‖S τᵀ − T‖² + a ‖τ − anchor‖² as one call of lstsq."""
    stack, target = stacked(vectors)
    root = a**0.5
    rows = torch.cat([stack, root * torch.eye(stack.shape[1], dtype=stack.dtype)])
    return torch.linalg.lstsq(rows, torch.cat([target, root * anchor.T])).solution.T


@given(shapes, seeds, st.sampled_from(["sum", "mean", "zero"]), st.sampled_from([1e-2, 1.0, 30.0]))
def test_is_the_minimiser(shape, seed, anchor, a):
    vectors = draw(shape, seed)
    centre = {"sum": vectors.sum(0), "mean": vectors.mean(0), "zero": 0 * vectors[0]}[anchor]
    close(ridge(vectors, RidgeSettings(a=a, anchor=anchor)), augmented(vectors, a, centre), 1e-8)


@given(shapes, seeds)
def test_a_small_a_is_lstsq(shape, seed):
    """With the anchor 0 the limit is the minimiser of least norm, which gelsd gives."""
    vectors = draw(shape, seed)
    stack, target = stacked(vectors)
    exact = torch.linalg.lstsq(stack, target, driver="gelsd").solution.T
    least = torch.linalg.svdvals(stack)
    least = least[least > 1e-9 * least[0]][-1] ** 2
    a = max(1e-5 * float(least), 1e-13)
    close(ridge(vectors, RidgeSettings(a=a, anchor="zero")), exact, 1e-3)


@given(shapes, seeds)
def test_a_large_a_is_the_anchor(shape, seed):
    vectors = draw(shape, seed)
    close(ridge(vectors, RidgeSettings(a=1e9)), vectors.sum(0), 1e-7)


@given(seeds, st.sampled_from([1e-30, 1e-5, 1.0]))
def test_one_expert_gives_that_expert_exactly(seed, rms):
    vectors = draw((1, 6, 9), seed, rms).float()
    assert torch.equal(ridge(vectors, RidgeSettings()), vectors[0])


def test_an_a_that_rounding_swallows_is_refused():
    vectors = draw((2, 9, 4), 0)
    assert ridge(vectors, RidgeSettings(a=1e-30)).isfinite().all()
    vectors[:, :, 3] = vectors[:, :, 2]
    with pytest.raises(InputError, match="ridge: a = 1e-30 is too small"):
        ridge(vectors, RidgeSettings(a=1e-30))


def test_scale_multiplies_the_task_vector():
    vectors = draw((2, 4, 6), 0)
    close(ridge(vectors, RidgeSettings(scale=0.5)), 0.5 * ridge(vectors, RidgeSettings()))

"""The interference loss against autograd of its definition, in both of its forms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amm.methods.descent import (
    Interference,
    common_rms,
    descend,
    frobenius_norms,
    full_precision,
    moved,
)

WIDE, TALL = (2, 3, 11), (3, 7, 5)
shapes = st.sampled_from([WIDE, TALL, (1, 4, 4), (2, 1, 6)])
seeds = st.integers(0, 2**16)


def draw(shape, seed, dtype=torch.float64):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def naive_terms(tau, task_vectors):
    return torch.stack([((tau - t) @ t.T).square().sum() for t in task_vectors])


def test_both_forms_are_covered():
    assert Interference(draw(WIDE, 0)).grams is None
    assert Interference(draw(TALL, 0)).grams is not None


@given(shapes, seeds)
def test_gradient_is_autograd_of_the_naive_loss(shape, seed):
    vectors, delta = draw(shape, seed), draw(shape[1:], seed + 1)
    weights = draw(shape[:1], seed + 2).abs()
    layer = Interference(vectors)
    tau = (layer.start + delta).requires_grad_()
    (expected,) = torch.autograd.grad((weights * naive_terms(tau, vectors)).sum(), tau)
    torch.testing.assert_close(layer.gradient(delta, weights), expected, rtol=1e-10, atol=1e-10)


@given(shapes, seeds)
def test_losses_are_the_naive_ones(shape, seed):
    vectors, tau = draw(shape, seed), draw(shape[1:], seed + 1)
    expected = naive_terms(tau, vectors) / vectors.square().sum(dim=(1, 2))
    torch.testing.assert_close(Interference(vectors).losses(tau), expected, rtol=1e-10, atol=1e-10)


@given(shapes, seeds)
def test_curvature_is_a_product_with_the_weighted_grams(shape, seed):
    vectors, x, weights = draw(shape, seed), draw(shape[1:], seed + 1), draw(shape[:1], seed + 2)
    expected = x @ sum(w * t.T @ t for w, t in zip(weights, vectors, strict=True))
    actual = Interference(vectors).curvature(weights)(x)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [WIDE, TALL])
def test_adam_is_torchs(shape):
    layer = Interference(draw(shape, 3))
    weights = torch.ones(shape[0], dtype=torch.float64)
    ours = descend(layer, lambda delta: layer.gradient(delta, weights), steps=50, lr=0.03, eps=1e-6)
    theirs = torch.zeros_like(ours, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.03, eps=1e-6)
    for _ in range(50):
        theirs.grad = layer.gradient(theirs.detach(), weights)
        adam.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-10, atol=1e-12)


def test_no_steps_stay_at_the_sum():
    layer = Interference(draw(TALL, 0))
    assert not descend(layer, lambda delta: delta, steps=0, lr=1.0, eps=1e-8).any()


def test_one_expert_has_no_gradient_at_all_in_float32():
    """τC − D leaves rounding errors here, which Adam would blow up."""
    vector = draw((1, 33, 17), 0, torch.float32)
    layer = Interference(vector)
    assert not layer.gradient(torch.zeros(33, 17), torch.ones(1)).any()


@pytest.mark.parametrize("shape", [(2, 40, 32), (2, 12, 32)])
def test_float32_descent_on_an_ill_conditioned_layer_follows_float64(shape):
    """Condition 1e4 in the task vectors, 1e8 in the Gram matrices."""
    count, rows, columns = shape
    rank = min(rows, columns)
    spectrum = torch.logspace(0, -4, rank, dtype=torch.float64)
    vectors = []
    for seed in range(count):
        left, _ = torch.linalg.qr(draw((rows, rank), seed))
        right, _ = torch.linalg.qr(draw((columns, rank), seed + 100))
        vectors.append(left * spectrum @ right.T)
    single = torch.stack(vectors).float()
    single = single / common_rms(single)
    results = []
    for tensors in (single, single.double()):
        layer = Interference(tensors)
        weights = frobenius_norms(tensors).pow(-2).to(tensors.dtype)
        gradient = lambda delta, layer=layer, weights=weights: layer.gradient(delta, weights)  # noqa: E731
        delta = descend(layer, gradient, steps=300, lr=0.01, eps=1e-5)
        results.append((layer.start + delta).double())
    assert (results[0] - results[1]).norm() < 1e-5 * results[1].norm()


def test_norms_of_tiny_entries_do_not_underflow():
    vectors = torch.full((2, 3, 4), 1e-30)
    torch.testing.assert_close(common_rms(vectors), 1e-30, rtol=1e-6, atol=0)
    assert len(moved(vectors)) == 2


def test_zero_experts_are_left_out():
    vectors = draw((3, 2, 2), 0)
    vectors[1] = 0
    assert torch.equal(moved(vectors), vectors[[0, 2]])
    assert len(moved(torch.zeros(2, 3, 3))) == 0


def test_full_precision_holds_whatever_the_process_has_set():
    inside = full_precision(torch.get_float32_matmul_precision)
    torch.set_float32_matmul_precision("medium")
    try:
        assert inside() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")

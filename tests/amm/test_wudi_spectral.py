"""Spectral WUDI against the gradient flow that it solves, and its two ends."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, seeds, shapes, stacked

from amm.methods.wudi_spectral import WudiSpectralSettings, wudi_spectral


def loss(tau, vectors):
    return sum(((tau - t) @ t.T).square().sum() / t.square().sum() for t in vectors)


def flow(vectors, time, steps):
    """dτ/dt = −½ ∂L/∂τ, autograd's gradient, by small explicit steps of Heun's rule."""
    step = time / steps

    def speed(at):
        at = at.clone().requires_grad_()
        return -0.5 * torch.autograd.grad(loss(at, vectors), at)[0]

    tau = vectors.sum(0)
    for _ in range(steps):
        first = speed(tau)
        tau = tau + step / 2 * (first + speed(tau + step * first))
    return tau


@pytest.mark.parametrize("shape", [(2, 3, 11), (3, 7, 5)])
def test_is_the_gradient_flow(shape):
    vectors = draw(shape, 0)
    close(wudi_spectral(vectors, WudiSpectralSettings(time=7.0)), flow(vectors, 7.0, 500), 1e-4)


@given(shapes, seeds)
def test_a_long_horizon_is_the_exact_solution_nearest_to_the_start(shape, seed):
    """min ‖τ − Σ τ_i‖ among the minimisers: least squares on the stacked, normalised τ_i."""
    vectors = draw(shape, seed)
    stack, target = stacked(vectors)
    start = vectors.sum(0)
    away = torch.linalg.lstsq(stack, target - stack @ start.T, driver="gelsd").solution.T
    close(wudi_spectral(vectors, WudiSpectralSettings(time=1e30)), start + away, 1e-6)


@given(shapes, seeds)
def test_with_the_effective_rank_only_so_many_directions_are_travelled_along(shape, seed):
    """By an SVD of the stacked, normalised τ_i, whose singular values are the √λ."""
    vectors = draw(shape, seed)
    stack, _ = stacked(vectors)
    _, roots, directions = torch.linalg.svd(stack, full_matrices=False)
    rank = int(roots.sum() ** 2 / roots.square().sum())
    assert 1 <= rank <= len(roots)
    subspace = directions[:rank].T @ directions[:rank]
    start = vectors.sum(0)
    full = wudi_spectral(vectors, WudiSpectralSettings(time=9.0)) - start
    cut = wudi_spectral(vectors, WudiSpectralSettings(time=9.0, rank="effective")) - start
    close(cut, full @ subspace, 1e-9)


@given(shapes, seeds)
def test_no_time_is_the_sum(shape, seed):
    vectors = draw(shape, seed)
    assert torch.equal(wudi_spectral(vectors, WudiSpectralSettings(time=0)), vectors.sum(0))


@given(shapes, seeds)
def test_the_loss_falls_with_the_horizon(shape, seed):
    vectors = draw(shape, seed)
    merged = [wudi_spectral(vectors, WudiSpectralSettings(time=t)) for t in (0, 1, 10, 100)]
    losses = [float(loss(tau, vectors)) for tau in merged]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(losses))


@given(seeds, st.sampled_from([1e-30, 1e-5, 1.0]))
def test_one_expert_gives_that_expert_exactly(seed, rms):
    vectors = draw((1, 6, 9), seed, rms).float()
    assert torch.equal(wudi_spectral(vectors, WudiSpectralSettings()), vectors[0])


def test_equal_experts_give_that_expert_in_the_end():
    expert = draw((5, 9), 0)
    settings = WudiSpectralSettings(time=1e9)
    tau = wudi_spectral(torch.stack([expert, expert]), settings)
    close(tau, expert, 1e-6)


def test_orthogonal_row_spaces_give_the_sum():
    basis, _ = torch.linalg.qr(draw((12, 12), 0))
    vectors = torch.stack([draw((5, 4), i) @ part for i, part in enumerate(basis.split(4))])
    close(wudi_spectral(vectors, WudiSpectralSettings()), vectors.sum(0))


def test_scale_multiplies_the_task_vector():
    vectors = draw((2, 4, 6), 0)
    half = wudi_spectral(vectors, WudiSpectralSettings(scale=0.5))
    close(half, 0.5 * wudi_spectral(vectors, WudiSpectralSettings()))

"""WUDI against the published procedure, and the trap of its absolute step."""

import pytest
import torch

from amm.methods.descent import Interference
from amm.methods.wudi import WudiSettings, wudi


def exact(**parameters):
    """Settings of the path of single steps."""
    return WudiSettings(stride=1, precision="highest", **parameters)


def draw(shape, seed, rms):
    generator = torch.Generator().manual_seed(seed)
    return rms * torch.randn(shape, generator=generator, dtype=torch.float64)


def published(vectors, steps=300, lr=1e-5):
    """arXiv 2503.08099: Adam on Σ ‖(τ − τ_i) τ_iᵀ‖² / ‖τ_i‖² from Σ τ_i."""
    tau = vectors.sum(0).clone().requires_grad_()
    adam = torch.optim.Adam([tau], lr=lr)
    for _ in range(steps):
        adam.zero_grad()
        sum(((tau - t) @ t.T).square().sum() / t.square().sum() for t in vectors).backward()
        adam.step()
    return tau.detach()


@pytest.mark.parametrize("shape", [(2, 3, 11), (3, 7, 5)])
@pytest.mark.parametrize("rms", [1e-3, 1e-5])
def test_without_normalisation_it_is_the_published_procedure(shape, rms):
    vectors = draw(shape, 0, rms)
    merged = wudi(vectors, exact(normalize=False))
    torch.testing.assert_close(merged, published(vectors), rtol=1e-6, atol=1e-6 * rms)


def test_normalised_it_is_the_published_procedure_at_rms_1e_3():
    vectors = draw((3, 8, 12), 0, 1.0)
    vectors *= 1e-3 / vectors.square().mean().sqrt()
    torch.testing.assert_close(wudi(vectors, exact()), published(vectors), rtol=1e-6, atol=0)


def test_absolute_steps_mean_something_else_for_small_deltas():
    """Early-stopped at RMS 1e-3, nearly converged at 1e-5; normalised, the same at both."""

    def loss_left(rms, normalize):
        vectors = draw((3, 48, 144), 0, rms)
        layer = Interference(vectors)
        tau = wudi(vectors, exact(normalize=normalize))
        return float(layer.losses(tau).sum() / layer.losses(layer.start).sum())

    assert loss_left(1e-5, False) < 0.5 * loss_left(1e-3, False)
    assert loss_left(1e-5, True) == pytest.approx(loss_left(1e-3, True), rel=1e-6)


def test_scale_multiplies_the_task_vector():
    vectors = draw((2, 4, 6), 0, 1.0)
    half = wudi(vectors, WudiSettings(scale=0.5))
    torch.testing.assert_close(half, 0.5 * wudi(vectors, WudiSettings()))


def test_explicit_lr_is_in_the_unit_that_normalize_says():
    vectors = draw((2, 4, 6), 0, 1.0)
    torch.testing.assert_close(
        wudi(vectors, WudiSettings(lr=0.01)), wudi(vectors, WudiSettings()), rtol=1e-12, atol=0
    )

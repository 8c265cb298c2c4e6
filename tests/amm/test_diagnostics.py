"""Figures of a merged layer."""

import pytest
import torch

from amm.diagnostics import layer_figures


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def naive_loss(tau, vectors):
    return float(sum(((tau - t) @ t.T).square().sum() / t.square().sum() for t in vectors))


@pytest.mark.parametrize("shape", [(2, 3, 11), (3, 7, 5)])
@pytest.mark.parametrize("rms", [1.0, 1e-6])
def test_figures_are_those_of_their_definitions(shape, rms):
    vectors, tau = rms * draw(*shape), rms * draw(*shape[1:])
    figures = layer_figures(vectors, tau)
    assert figures.experts == shape[0]
    assert figures.rho == pytest.approx(shape[0] * shape[1] / shape[2])
    assert figures.rms == pytest.approx(float(vectors.square().mean().sqrt()))
    assert figures.norm_ratio == pytest.approx(float(tau.norm() / vectors.sum(0).norm()))
    assert figures.loss_before == pytest.approx(naive_loss(vectors.sum(0), vectors))
    assert figures.loss_after == pytest.approx(naive_loss(tau, vectors))
    cosines = [float((tau * t).sum() / (tau.norm() * t.norm())) for t in vectors]
    assert figures.cosines == pytest.approx(cosines)


def test_zero_experts_do_not_count():
    vectors = torch.cat([draw(2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.float64)])
    assert layer_figures(vectors, vectors.sum(0)).experts == 2


def test_cancelling_experts_give_finite_figures():
    vector = draw(3, 4)
    figures = layer_figures(torch.stack([vector, -vector]), torch.zeros_like(vector))
    assert (figures.norm_ratio, figures.cosines) == (0.0, (0.0, 0.0))

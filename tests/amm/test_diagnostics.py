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


def test_loss_of_many_rows_is_estimated_from_some():
    vectors, tau = draw(2, 5000, 6), draw(5000, 6)
    assert layer_figures(vectors, tau).loss_after == pytest.approx(
        naive_loss(tau, vectors), rel=0.1
    )


def test_relative_losses_are_free_of_units():
    vectors, tau = draw(3, 7, 5), draw(7, 5)
    small = layer_figures(1e-6 * vectors, 1e-6 * tau).relative_losses
    assert small == pytest.approx(layer_figures(vectors, tau).relative_losses)
    unit = float(vectors.square().sum())
    start = vectors.sum(0)
    assert small[0] == pytest.approx(naive_loss(start, vectors) / unit)


def test_zero_experts_keep_their_place_and_do_not_count():
    first, last = draw(2, 3, 4)
    zero = torch.zeros(3, 4, dtype=torch.float64)
    figures = layer_figures(torch.stack([first, zero, last]), first + last)
    without = layer_figures(torch.stack([first, last]), first + last)
    assert figures.experts == 2
    assert figures.cosines == pytest.approx((without.cosines[0], None, without.cosines[1]))
    assert figures.norms == pytest.approx((without.norms[0], 0.0, without.norms[1]))
    assert figures.loss_after == pytest.approx(without.loss_after)


def test_cancelling_experts_give_finite_figures():
    vector = draw(3, 4)
    figures = layer_figures(torch.stack([vector, -vector]), torch.zeros_like(vector))
    assert (figures.norm_ratio, figures.cosines) == (0.0, (0.0, 0.0))

"""OptMerge against the published procedure, with SVD, autograd and torch's SGD."""

import numpy as np
import pytest
import torch
from hypothesis import given
from method_cases import close, draw, seeds, shapes

from amm.methods.optmerge import OptMergeSettings, optmerge


def published(vectors, settings):
    """arXiv 2505.19892: truncated task vectors by NumPy, then 300 steps of SGD from the mean."""
    rank = max(1, min(vectors.shape[1:]) // len(vectors))
    truncated = []
    for vector in vectors.numpy():
        u, s, vh = np.linalg.svd(vector, full_matrices=False)
        truncated.append(torch.from_numpy(u[:, :rank] * s[:rank] @ vh[:rank]))
    tau = vectors.mean(0).clone().requires_grad_()
    sgd = torch.optim.SGD([tau], lr=settings.lr, momentum=settings.momentum)
    for _ in range(settings.steps):
        sgd.zero_grad()
        sum(
            ((tau - low) @ low.T).square().sum() / full.square().sum()
            for low, full in zip(truncated, vectors, strict=True)
        ).backward()
        sgd.step()
    return settings.scale * tau.detach()


@given(shapes, seeds)
def test_is_the_published_procedure(shape, seed):
    vectors = draw(shape, seed, 1e-3)
    close(optmerge(vectors, OptMergeSettings()), published(vectors, OptMergeSettings()))


@pytest.mark.parametrize("shape", [(2, 4, 11), (3, 7, 6)])
@pytest.mark.parametrize(
    "parameters", [{"lr": 0.05}, {"momentum": 0.0, "steps": 40}, {"steps": 0}, {"scale": 0.7}]
)
def test_every_setting_is_that_of_the_procedure(shape, parameters):
    vectors, settings = draw(shape, 1), OptMergeSettings(**parameters)
    close(optmerge(vectors, settings), published(vectors, settings), 1e-8)


def test_with_the_published_step_it_hardly_leaves_the_mean():
    """Stated in the module: about 2λ · 0.3 of the way, and λ averages below K/in."""
    vectors = draw((3, 48, 64), 0)
    away = (optmerge(vectors, OptMergeSettings()) - vectors.mean(0)).norm()
    assert 0.001 < away / vectors.mean(0).norm() < 0.05


def test_one_expert_gives_that_expert():
    vectors = draw((1, 6, 9), 0)
    close(optmerge(vectors, OptMergeSettings()), vectors[0], 1e-14)


def test_equal_experts_give_that_expert():
    vectors = draw((6, 9), 0).repeat(3, 1, 1)
    close(optmerge(vectors, OptMergeSettings()), vectors[0], 1e-14)

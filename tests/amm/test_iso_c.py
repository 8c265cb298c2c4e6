"""Iso-C: the sum's directions, all equally strong."""

import numpy as np
import torch
from hypothesis import given
from method_cases import close, draw, seeds, shapes

from amm.methods.iso_c import iso_c
from amm.methods.linear import LinearSettings


@given(shapes, seeds)
def test_is_the_papers_formula(shape, seed):
    vectors = draw(shape, seed)
    u, s, vh = np.linalg.svd(vectors.sum(0).numpy(), full_matrices=False)
    expected = torch.from_numpy(u @ np.diag(np.full(len(s), s.mean())) @ vh)
    close(iso_c(vectors, LinearSettings()), expected)


@given(shapes, seeds)
def test_all_singular_values_are_their_mean_and_the_nuclear_norm_stays(shape, seed):
    vectors = draw(shape, seed)
    before = torch.linalg.svdvals(vectors.sum(0))
    after = torch.linalg.svdvals(iso_c(vectors, LinearSettings()))
    close(after, torch.full_like(after, float(before.mean())))


def test_a_sum_of_low_rank_stays_of_that_rank():
    vectors = torch.stack([draw((8, 1), i) @ draw((1, 5), i + 9) for i in range(2)])
    tau = iso_c(vectors, LinearSettings())
    s = torch.linalg.svdvals(vectors.sum(0))[:2]
    close(torch.linalg.svdvals(tau)[:2], s.mean().expand(2))
    assert torch.linalg.svdvals(tau)[2] < 1e-12


def test_opposite_experts_give_zero():
    expert = draw((3, 4), 0)
    assert not iso_c(torch.stack([expert, -expert]), LinearSettings()).any()


def test_scale_multiplies_the_task_vector():
    vectors = draw((2, 4, 6), 0)
    close(iso_c(vectors, LinearSettings(scale=0.5)), 0.5 * iso_c(vectors, LinearSettings()))

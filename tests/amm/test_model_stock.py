"""Model Stock against its geometry."""

import pytest
import torch
from hypothesis import given
from method_cases import close, draw, seeds

import amm


@given(seeds)
def test_two_experts_give_the_foot_of_the_perpendicular_from_the_base(seed):
    """Of equal length: the point nearest to W_0 on the line through both is shortened by cos² of
    half the angle, and Model Stock's is t = 2 cos θ/(1 + cos θ) of the mean."""
    one, other = (x / x.norm() for x in draw((2, 5, 4), seed) + 0.5)
    merged = amm.merge_tensors("model_stock", torch.stack([one, other]), base=one)
    cosine = (one * other).sum().clamp_min(0)
    close(merged, 2 * cosine / (1 + cosine) * (one + other) / 2)


@given(seeds)
def test_the_merged_point_is_nearest_to_a_centre_that_sees_all_at_right_angles(seed):
    """The paper's condition for K experts in equal angles: (W − μ) ⟂ (W_i − W)."""
    count, cosine = 4, 0.3
    products = torch.full((count, count), cosine, dtype=torch.float64).fill_diagonal_(1)
    frame = torch.linalg.qr(draw((24, count), seed)).Q
    vectors = (torch.linalg.cholesky(products) @ frame.T).view(count, 6, 4)
    merged = amm.merge_tensors("model_stock", vectors, base=vectors[0])
    ratio = count * cosine / (1 + (count - 1) * cosine)
    close(merged, ratio * vectors.mean(0))
    centre = merged / ratio  # the mean of the experts
    assert abs(((centre - merged) * merged).sum() / merged.norm() ** 2 - (1 - ratio) / ratio) < 1e-9


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_experts_are_kept_and_opposite_ones_cancel(sign):
    one = draw((3, 4), 0)
    merged = amm.merge_tensors("model_stock", torch.stack([one, sign * one]), base=one)
    close(merged, one) if sign > 0 else close(merged, 0 * one)


def test_scale():
    vectors = draw((3, 3, 4), 0) + 1
    merged = [amm.merge_tensors("model_stock", vectors, base=vectors[0], scale=s) for s in (1, 0.5)]
    close(merged[1], 0.5 * merged[0])

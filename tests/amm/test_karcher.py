"""The Karcher mean: where the tangents to all models cancel."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, seeds

import amm


def on_weights(weights):
    base = draw(tuple(weights.shape[1:]), 9)
    return base + amm.merge_tensors("karcher", weights - base, base=base)


@given(seeds, st.integers(2, 5))
def test_tangents_from_the_mean_to_the_models_cancel(seed, count):
    weights = draw((count, 5, 4), seed) + 1.0
    merged = on_weights(weights).flatten()
    u = merged / merged.norm()
    total = torch.zeros_like(u)
    for weight in weights.flatten(1):
        unit = weight / weight.norm()
        angle = (u @ unit).arccos()
        total += angle / angle.sin() * (unit - (u @ unit) * u)
    assert total.norm() < 1e-8
    close(merged.norm(), weights.flatten(1).norm(dim=1).mean(), 1e-9)


@given(seeds)
def test_of_two_models_of_one_length_it_is_the_middle_of_the_arc(seed):
    one, other = (x / x.norm() for x in draw((2, 5, 4), seed) + 0.2)
    base = draw((5, 4), 9)
    vectors = torch.stack([one, other]) - base
    middle = base + amm.merge_tensors("slerp", vectors, base=base)
    close(on_weights(torch.stack([one, other])), middle)


def test_order_does_not_matter_and_equal_models_stay():
    weights = draw((3, 5, 4), 0)
    close(on_weights(weights), on_weights(weights.flip(0)))
    close(on_weights(weights[:1].repeat(3, 1, 1)), weights[0])


def test_a_zero_tensor_counts_in_the_length_alone_and_opposite_ones_do_no_harm():
    one = draw((5, 4), 0)
    close(on_weights(torch.stack([one, 0 * one])), 0.5 * one)
    assert on_weights(torch.stack([one, -one])).isfinite().all()

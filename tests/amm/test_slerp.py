"""SLERP against the rotation that it is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from method_cases import close, draw, seeds

import amm

ways = st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])


def on_weights(weights, **settings):
    base = draw(tuple(weights.shape[1:]), 9)
    return base + amm.merge_tensors("slerp", weights - base, base=base, **settings)


@given(seeds, ways)
def test_on_the_sphere_it_turns_by_a_share_of_the_angle(seed, t):
    one, other = (x / x.norm() for x in draw((2, 5, 4), seed))
    angle = (one * other).sum().arccos()
    across = other - (one * other).sum() * one
    turned = (t * angle).cos() * one + (t * angle).sin() * across / across.norm()
    close(on_weights(torch.stack([one, other]), t=t), turned, 1e-9)


@given(seeds, ways)
def test_the_ends_are_the_two_models_and_either_way_is_the_same(seed, t):
    weights = draw((2, 5, 4), seed)
    close(on_weights(weights, t=0.0), weights[0])
    close(on_weights(weights, t=1.0), weights[1])
    close(on_weights(weights, t=t), on_weights(weights.flip(0), t=1 - t))


@given(ways)
def test_parallel_weights_are_joined_by_a_straight_line(t):
    one = draw((5, 4), 0)
    for factor in (2.0, -0.5, 0.0):
        merged = on_weights(torch.stack([one, factor * one]), t=t)
        close(merged, (1 - t) * one + t * factor * one, 1e-6)


def test_one_expert_is_reached_from_the_base():
    base, expert = draw((2, 5, 4), 0)
    merged = base + amm.merge_tensors("slerp", (expert - base)[None], base=base, t=0.3)
    close(merged, on_weights(torch.stack([base, expert]), t=0.3))


def test_more_than_two_experts_are_refused():
    with pytest.raises(amm.InputError, match="3 experts; give two, or one .*karcher"):
        amm.merge_tensors("slerp", draw((3, 5, 4), 0), base=draw((5, 4), 1))


def test_the_base_is_needed():
    with pytest.raises(amm.InputError, match="needs the base's weights; give base"):
        amm.merge_tensors("slerp", draw((2, 5, 4), 0))

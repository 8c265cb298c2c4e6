"""Accuracy and format together, and how LIPO sees the sum."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.batch import estimate
from lipo_verl.config import LipoConfig
from lipo_verl.rewards.composite import FORMAT_WEIGHT, combine

shares = st.floats(0, 1)


@given(shares, shares, shares)
def test_a_combination_lies_between_its_parts(accuracy, format, weight):
    low, high = sorted((accuracy, format))
    assert low - 1e-12 <= combine(accuracy, format, weight) <= high + 1e-12


@given(shares)
def test_the_weights_add_up(weight):
    assert combine(1, 1, weight) == pytest.approx(1)
    assert combine(1, 0, weight) + combine(0, 1, weight) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("accuracy", [0.0, 0.5, 0.7, 1.0])
def test_lipo_tells_a_kept_format_from_a_broken_one_at_its_default_threshold(dtype, accuracy):
    """Rewards reach LIPO as float32 from verl; 1.0 - 0.9 is under 0.1 in float64."""
    scores = [combine(accuracy, 1, FORMAT_WEIGHT), combine(accuracy, 0, FORMAT_WEIGHT)]
    rewards = torch.tensor(scores, dtype=dtype).numpy()
    uncut = np.zeros(2, bool)
    _, (group,) = estimate(rewards, np.array([200, 100]), uncut, ["a", "a"], LipoConfig())
    assert not group.result.boosted.any()

"""The study's intervals and frontier, beside simulations and independent forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from examples.evidence.measures import difference, mean_over, on_frontier, over_seeds, ratio


def test_without_a_spread_of_questions_the_interval_is_students():
    values = np.repeat(np.array([[0.1], [0.4], [0.3], [0.2]]), 50, axis=1)
    estimate = mean_over(values)
    expected = ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_figures_of_seeds_alone_have_students_interval():
    values = np.array([0.1, 0.4, 0.3, 0.2])
    estimate = over_seeds(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high))


def test_the_interval_covers_the_mean_at_least_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        seeds, questions = rng.normal(0, 0.03, (3, 1)), rng.normal(0, 0.3, (1, 200))
        estimate = mean_over(0.7 + seeds + questions + rng.normal(0, 0.3, (3, 200)))
        covered += estimate.low <= 0.7 <= estimate.high
    assert covered / 300 >= 0.95


def test_one_seed_has_no_interval():
    estimate = mean_over(np.ones((1, 9)))
    assert (estimate.low, estimate.high) == (-np.inf, np.inf)


def test_what_is_hard_for_both_cancels_in_a_difference():
    rng = np.random.default_rng(2)
    questions = rng.normal(0, 5, (1, 100)) + rng.normal(0, 0.1, (3, 100))
    estimate = difference(questions + 1, questions)
    assert (estimate.low, estimate.value, estimate.high) == pytest.approx((1, 1, 1))


def test_a_ratio_of_lengths_has_the_spread_that_resampled_questions_show():
    rng = np.random.default_rng(3)
    baseline = rng.gamma(5, 5, (4, 400))
    values = 0.5 * baseline + rng.gamma(3, 2, (4, 400))
    estimate = ratio(values, baseline)
    assert estimate.value == pytest.approx(values.mean() / baseline.mean())
    resampled = [
        values[:, chosen].mean() / baseline[:, chosen].mean()
        for chosen in rng.integers(0, 400, (500, 400))
    ]
    half = (estimate.high - estimate.low) / 2
    assert 1.96 * np.std(resampled) < half < 10 * np.std(resampled)


coordinates = st.tuples(st.integers(0, 5), st.integers(0, 5))


@given(st.dictionaries(st.text(max_size=2), coordinates, min_size=1))
def test_nobody_beats_the_frontier_and_somebody_beats_the_rest(points):
    frontier = on_frontier(points)
    assert frontier

    def beats(one, other):
        return one[0] <= other[0] and one[1] >= other[1] and one != other

    for name, point in points.items():
        beaten = [other for other in points if beats(points[other], point)]
        assert (name in frontier) == (not beaten)
        assert not beaten or set(beaten) & frontier

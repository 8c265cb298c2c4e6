"""Intervals: against scipy, and by how often they hold the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.evaluate import statistics
from lipo_verl.evaluate.statistics import Scored, wilson


def scored(accuracy, tokens=None):
    accuracy = np.asarray(accuracy, dtype=float)
    tokens = np.ones(len(accuracy)) if tokens is None else np.asarray(tokens)
    return Scored(accuracy, tokens, np.zeros(len(accuracy), dtype=bool))


@given(trials=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilson_solves_its_own_equation(trials, share):
    """The ends are where the share lies z standard errors *of that end* away."""
    successes = round(share * trials)
    for end in wilson(successes, trials):
        error = np.sqrt(end * (1 - end) / trials)
        assert abs(successes / trials - end) == pytest.approx(1.959963984540054 * error, abs=1e-6)


def test_wilson_against_published_numbers():
    # Brown, Cai and DasGupta, Interval Estimation for a Binomial Proportion, 2001: x = 0 of 10.
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998


def test_an_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(3)
    held = {"accuracy": 0, "mean_tokens": 0, "ratio": 0}
    for _ in range(200):
        tokens = rng.gamma(2.0, 10.0, 150)
        shorter = tokens * rng.uniform(0.2, 0.4, 150)
        one, other = scored(rng.random(150) < 0.7, tokens), scored(rng.random(150) < 0.7, shorter)
        for name, estimate, truth in (
            ("accuracy", statistics.accuracy(one), 0.7),
            ("mean_tokens", statistics.mean_tokens(one), 20.0),
            ("ratio", statistics.token_ratio(one, other), 0.3),
        ):
            held[name] += estimate.low <= truth <= estimate.high
    assert all(180 <= count <= 199 for count in held.values()), held


def test_a_mean_of_graded_scores_gets_the_normal_interval_nearly():
    values = np.random.default_rng(0).random(2000)
    estimate = statistics.accuracy(scored(values))
    half = 1.96 * values.std() / np.sqrt(2000)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_right_or_wrong_scores_get_wilsons_interval():
    estimate = statistics.accuracy(scored([1, 1, 1, 0]))
    assert (estimate.low, estimate.high) == wilson(3, 4)
    assert statistics.accuracy(scored([1] * 5)).low < 1


def test_tokens_per_correct_counts_the_wrong_answers_tokens_too():
    estimate = statistics.tokens_per_correct(scored([1, 0.6, 0.4, 0], [10, 20, 30, 40]))
    assert estimate.value == 50  # 100 tokens, 2 answers from 0.5 on


def test_without_a_correct_answer_they_are_infinite():
    estimate = statistics.tokens_per_correct(scored([0, 0], [10, 20]))
    assert estimate.value == estimate.low == estimate.high == np.inf
    # One of three: about 0.3 of the resamples have none.
    assert statistics.tokens_per_correct(scored([1, 0, 0], [5, 5, 5])).high == np.inf


def test_paired_differences_are_narrower_than_those_of_strangers():
    rng = np.random.default_rng(1)
    hard = rng.random(400)
    one, other = scored(hard > 0.3), scored(hard > 0.28)
    paired = statistics.accuracy_difference(one, other)
    shuffled = statistics.accuracy_difference(one, scored(rng.permutation(other.accuracy)))
    assert paired.value == pytest.approx(shuffled.value)
    assert paired.high - paired.low < 0.5 * (shuffled.high - shuffled.low)
    assert paired.low >= 0


def test_a_model_against_itself_is_exactly_the_same():
    one = scored([1, 0, 1], [5, 50, 500])
    assert vars(statistics.accuracy_difference(one, one)) == {"value": 0, "low": 0, "high": 0}
    assert vars(statistics.token_ratio(one, one)) == {"value": 1, "low": 1, "high": 1}


def test_the_same_answers_give_the_same_interval():
    one = scored(np.linspace(0, 1, 50), np.arange(50))
    assert statistics.mean_tokens(one) == statistics.mean_tokens(one)


def test_blocks_of_resamples_make_no_difference_to_the_number_of_them(monkeypatch):
    sizes = []

    def mean(values):
        sizes.append(len(values) if values.ndim > 1 else 0)
        return values.mean(-1)

    monkeypatch.setattr(statistics, "_AT_ONCE", 70)
    statistics.bootstrap(mean, np.arange(10.0))
    assert sum(sizes) == statistics.RESAMPLES
    assert max(sizes) == 7

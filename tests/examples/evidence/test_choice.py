"""The study's rules of choice, on made-up results."""

import pytest

from examples.evidence.choice import (
    best_of_lipo,
    chosen_strengths,
    finalists,
    hard_points,
    ranked,
)
from tests.examples.evidence.results import STEPS, result


def test_the_shortest_strength_within_the_slack_is_chosen():
    tuning = [
        result("tune", "grpo", accuracy=10 / 12, tokens=40),
        result("tune", "lipo", 0.1, accuracy=11 / 12, tokens=20),
        result("tune", "lipo", 0.3, accuracy=10 / 12, tokens=10),
        result("tune", "kimi", 0.1, accuracy=11 / 12, tokens=20),
        result("tune", "kimi", 0.4, accuracy=7 / 12, tokens=6),
    ]
    assert chosen_strengths(tuning) == {"grpo": None, "lipo": 0.3, "kimi": 0.1}


def test_of_strengths_within_a_token_the_more_accurate_one_is_chosen():
    tuning = [
        result("tune", "grpo", accuracy=11 / 12, tokens=40),
        result("tune", "kimi", 0.1, accuracy=11 / 12, tokens=8),
        result("tune", "kimi", 0.4, accuracy=12 / 12, tokens=9),
        result("tune", "alp", 0.001, accuracy=11 / 12, tokens=8),
        result("tune", "alp", 0.004, accuracy=12 / 12, tokens=10),
    ]
    assert chosen_strengths(tuning) == {"grpo": None, "kimi": 0.4, "alp": 0.001}


def test_of_equally_accurate_strengths_the_shorter_one_is_chosen_in_any_order():
    baseline = result("tune", "grpo", tokens=40)
    strengths = [result("tune", "gfpo", 4, tokens=27), result("tune", "gfpo", 3, tokens=28)]
    for order in (strengths, strengths[::-1]):
        assert chosen_strengths([baseline, *order])["gfpo"] == 4


def test_where_none_is_within_it_the_most_accurate_is():
    tuning = [
        result("tune", "grpo", accuracy=11 / 12),
        result("tune", "alp", 0.002, accuracy=8 / 12, tokens=20),
        result("tune", "alp", 0.008, accuracy=6 / 12, tokens=10),
    ]
    assert chosen_strengths(tuning)["alp"] == 0.002


def test_hard_questions_alone_make_the_points():
    one = result("report", "grpo", tokens=10)
    one.tokens[STEPS < 3] = 1000
    one.correct[STEPS < 3] = False
    other = result("report", "grpo", seed=2, tokens=20)
    (tokens, accuracy) = hard_points([one, other])["grpo"]
    assert tokens == 15
    assert accuracy == pytest.approx(11 / 12)


REPORTED = [
    result("report", "grpo", accuracy=11 / 12, tokens=40),
    result("report", "lipo", 0.1, accuracy=8 / 12, tokens=7),
    result("report", "lipo-batch", 0.1, accuracy=11 / 12, tokens=12),
    result("report", "lipo-floor", 0.1, accuracy=11 / 12, tokens=15),
    result("report", "kimi", 0.1, accuracy=7 / 12, tokens=6),
    result("report", "dler", 24, accuracy=11 / 12, tokens=13),
    result("report", "alp", 0.002, accuracy=11 / 12, tokens=14),
    result("report", "gr3", 0.1, accuracy=11 / 12, tokens=16),
]


def stressed(**accuracies):
    return [
        result("stress", one.trial.arm, accuracy=accuracies.get(one.trial.arm, 0.5))
        for one in REPORTED
    ]


def test_finalists_are_the_baseline_lipo_its_best_arm_and_the_best_of_all():
    assert finalists(REPORTED, stressed()) == ["grpo", "lipo", "lipo-batch", "dler", "alp"]


def test_sound_arms_within_a_token_of_the_shortest_go_by_their_accuracy_under_stress():
    strained = hard_points(stressed(dler=10 / 12, alp=11 / 12))
    arms = {name: point for name, point in hard_points(REPORTED).items() if name != "grpo"}
    assert ranked(arms, 0.9, strained) == [
        *("dler", "lipo-batch", "alp", "lipo-floor", "gr3", "lipo", "kimi")
    ]


def test_the_best_of_lipo_is_the_most_accurate_where_none_is_sound():
    points = {"grpo": (40, 0.95), "lipo": (7, 0.7), "lipo-pass": (9, 0.8), "kimi": (8, 0.95)}
    assert best_of_lipo(points, points) == "lipo-pass"

"""Each metric against a batch small enough to reckon by hand."""

import math
from statistics import correlation

import numpy as np
import pytest

from lipo_verl.batch import estimate
from lipo_verl.config import LipoConfig
from lipo_verl.metrics import (
    CollapseAlarm,
    _warn_of_nothing_right,
    lipo_metrics,
    reward_metrics,
)

KEYS = {
    "groups_of_one",
    "groups_active",
    "groups_all_right",
    "groups_all_wrong",
    "groups_same_length",
    "groups_truncated",
    "groups_gated",
    "truncated",
    "accuracy",
    "length",
    "boosted",
    "boost",
    "lowered",
    "penalty",
    "kept",
    "optimum_length",
    "weight",
    "length_correct",
    "length_wrong",
    "tokens_per_correct",
    "length_score_correlation",
    "sign_flips",
}


def metrics(*groups, cut=(), **settings):
    """The metrics of groups given as lists of (reward, length), without ``lipo/``; responses of a
    length in ``cut`` were truncated."""
    rows = [(*member, str(g)) for g, group in enumerate(groups) for member in group]
    rewards, lengths, uids = zip(*rows, strict=True)
    config = LipoConfig(**settings)
    truncated = np.isin(lengths, cut)
    _, made = estimate(np.array(rewards, float), np.array(lengths), truncated, uids, config)
    return {key.removeprefix("lipo/"): value for key, value in lipo_metrics(made).items()}


def test_batch_reckoned_by_hand():
    seen = metrics(
        [(1, 10), (1, 20), (0, 30)],  # L_opt 20, weights e^-1/2, 1, e^-1/2
        [(0, 5), (0, 5)],  # L_opt 10, weights e^-1/2 both; nothing to compare
        [(1, 400)],  # alone: counted, and in nothing else
    )
    assert seen == pytest.approx(
        {
            "groups_of_one": 1,
            "groups_active": 1 / 2,
            "groups_all_right": 0,
            "groups_all_wrong": 1 / 2,
            "groups_same_length": 1 / 2,
            "groups_truncated": 0,
            "groups_gated": 0,
            "truncated": 0,
            "accuracy": 2 / 5,
            "length": 70 / 5,
            "boosted": 1 / 5,  # the first only: 1 - 10/30 of kappa
            "boost": 0.1 * (1 - 10 / 30),
            "lowered": 0,
            "penalty": 0,
            "kept": 1,
            "optimum_length": 15,
            "weight": (1 + 4 * math.exp(-0.5)) / 5,
            "length_correct": 15,
            "length_wrong": 40 / 3,
            "tokens_per_correct": 70 / 2,
            "length_score_correlation": -math.sqrt(3) / 2,  # ranks 1, 2, 3 and 2.5, 2.5, 1
            "sign_flips": 0,
        }
    )


def test_all_right_group_is_told_apart_from_mixed_ones():
    seen = metrics([(1, 10), (1, 20)], [(1, 10), (0, 20)], [(0.5, 10), (0.9, 10)], [(0, 3), (0, 4)])
    assert seen["groups_all_right"] == 2 / 4
    assert seen["groups_all_wrong"] == 1 / 4
    assert seen["groups_same_length"] == 1 / 4
    assert seen["groups_active"] == 3 / 4


def test_sign_flips_count_right_answers_pushed_down_and_wrong_ones_pushed_up():
    flat = dict(boost=0.0, weight_scale=math.inf)
    assert metrics([(0.5, 9), (1, 9), (1, 9), (0, 9)], **flat)["sign_flips"] == 1 / 4  # mean 0.625
    assert metrics([(0.4, 9), (0, 9), (0, 9), (1, 9)], **flat)["sign_flips"] == 1 / 4  # mean 0.35
    assert metrics([(1, 9), (1, 9), (0, 9), (0, 9)], **flat)["sign_flips"] == 0


def test_sign_flips_ignore_groups_that_are_all_right_or_all_wrong():
    seen = metrics([(1, 10), (1, 20)], [(0.1, 10), (0.4, 20)])
    assert seen["groups_active"] == 1
    assert seen["sign_flips"] == 0


def test_length_alone_can_flip_a_sign_and_is_counted():
    answers = [(1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 100), (0.95, 100), (0.49, 100)]
    seen = metrics(answers, boost=1.0, weight_scale=math.inf)
    assert seen["sign_flips"] == 2 / 8  # 1 and 0.95 at 100 tokens against 1.99 at one token


def test_sign_flips_are_counted_though_the_clamp_removes_them():
    answers = [(1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 100), (0.95, 100), (0.49, 100)]
    seen = metrics(answers, boost=1.0, weight_scale=math.inf, sign_clamp=True)
    assert seen["sign_flips"] == 2 / 8


def test_truncated_responses_and_their_groups_are_counted():
    seen = metrics([(1, 10), (0, 64)], [(1, 10), (1, 20)], [(0, 64), (0, 64)], cut=[64])
    assert seen["truncated"] == 3 / 6
    assert seen["groups_truncated"] == 2 / 3


def test_groups_under_the_pass_rate_floor_are_counted():
    groups = [(1, 10), (0, 64)], [(1, 10), (1, 20)], [(0, 64), (0, 64)]
    assert metrics(*groups)["groups_gated"] == 0
    assert metrics(*groups, min_pass_rate=0.5)["groups_gated"] == 1 / 3
    assert metrics(*groups, min_pass_rate=0.6)["groups_gated"] == 2 / 3


def test_correct_is_a_score_from_the_setting_on():
    assert metrics([(0.6, 1), (0.7, 2)], correct_score=0.7)["accuracy"] == 1 / 2


# The alarm


def alarms(lengths, accuracies):
    alarm = CollapseAlarm()
    return [
        alarm({"lipo/length": length, "lipo/accuracy": accuracy})["lipo/collapse_alarm"]
        for length, accuracy in zip(lengths, accuracies, strict=True)
    ]


def test_alarm_rings_when_length_and_accuracy_fall_together(caplog):
    assert alarms([100] * 10 + [50] * 20, [0.9] * 10 + [0.4] * 20) == [0] * 10 + [1] * 9 + [0] * 11
    assert len(caplog.records) == 1
    assert "fell from 100.0 to 90.0 tokens and their accuracy from 0.90 to 0.80" in caplog.text


def test_alarm_is_silent_when_only_one_of_them_falls():
    assert not any(alarms([100] * 10 + [50] * 10, [0.9] * 20))
    assert not any(alarms([100] * 20, [0.9] * 10 + [0.4] * 10))
    assert not any(alarms([100] * 10 + [200] * 10, [0.9] * 10 + [0.4] * 10))


def test_ten_batches_without_a_right_answer_are_told_of_once(caplog):
    _warn_of_nothing_right.cache_clear()
    assert not any(alarms([100] * 9, [0.0] * 9)) and not caplog.records
    assert not any(alarms([100] * 20, [0.01] + [0.0] * 19))
    assert ["correct_score" in record.message for record in caplog.records] == [True]


def test_alarm_skips_batches_without_groups_to_compare():
    assert CollapseAlarm()({"lipo/groups_of_one": 3}) == {}


def mean_ranks(values):
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) + 1) / 2 for v in values]


@pytest.mark.parametrize(
    "group",
    [
        [(0, 1), (0.2, 2), (0.9, 3)],
        [(0, 3), (1, 1), (1, 2), (0, 3), (1, 7)],
        [(0.3, 8), (0.1, 8), (0.7, 2), (0.3, 5), (0.2, 1), (0.9, 1)],
    ],
)
def test_rank_correlation_is_spearmans(group):
    rewards, lengths = zip(*group, strict=True)
    expected = correlation(mean_ranks(lengths), mean_ranks(rewards))
    assert metrics(group)["length_score_correlation"] == pytest.approx(expected)


def test_rank_correlation_is_the_mean_over_groups_that_have_one():
    rising, falling = [(0, 1), (0.2, 2), (0.9, 3)], [(1, 1), (0, 2), (0.5, 3)]
    same = [(1, 1), (1, 2), (1, 3)]
    assert metrics(rising, falling, same)["length_score_correlation"] == pytest.approx(
        (1 - 0.5) / 2
    )


def test_groups_of_one_are_all_that_a_batch_without_peers_shows():
    assert metrics([(1, 5)], [(0, 5)], [(1, 9)]) == {"groups_of_one": 3}


def test_parts_of_the_reward_are_means_over_the_responses_of_all_batches_that_have_them():
    none = math.nan
    batches = [
        {"acc": np.array([1.0, 0.0, 0.0]), "format": np.array([1.0, none, none])},
        {"acc": np.array([1.0]), "text": np.array([none])},
        {},
    ]
    assert reward_metrics(batches) == {"reward/acc": 0.5, "reward/format": 1.0}
    assert reward_metrics([]) == {}


@pytest.mark.parametrize(
    "groups",
    [
        [[(0, 1), (0, 1)]],
        [[(1, 1), (1, 1)], [(1, 1), (1, 1), (1, 1)]],
        [[(1, 0), (0, 2)], [(1, 4)]],
        [[(-1, 3), (-1, 3000)], [(0.5, 7), (0.2, 9), (1e6, 2)]],
    ],
)
def test_metrics_are_plain_finite_numbers(groups):
    seen = metrics(*groups)
    assert set(seen) == KEYS
    assert {type(value) for value in seen.values()} <= {int, float}
    assert all(map(math.isfinite, seen.values()))

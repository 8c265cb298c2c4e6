"""What every trainer gets: the checks of a launch, metrics over the batches of a step."""

import numpy as np
import pytest
import torch

from lipo_verl import contract
from lipo_verl.config import LipoConfig, LipoConfigError, LipoSetupError
from lipo_verl.contract import Launch, Run, accuracy_of, check, warn_of_unread
from lipo_verl.metrics import lipo_metrics
from lipo_verl.schemes import schemes


@pytest.fixture(autouse=True)
def nothing_was_warned_of():
    contract.warn_once.cache_clear()


def launch(section=None, n=4, **others):
    return Launch(section=section, responses=("rollout.n", n), budget=512, **others)


def test_a_launch_gets_its_settings_with_the_budget_filled_in(caplog):
    assert check(launch()) == LipoConfig(response_budget=512)
    assert check(launch({"response_budget": 99, "boost": 1})) == LipoConfig(
        boost=1, response_budget=99
    )
    assert not caplog.records


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (launch({"bost": 1}), LipoConfigError, r"Did you mean algorithm\.lipo\.boost"),
        (launch({"scheme": "laser"}), LipoConfigError, "target_length is missing"),
        (launch(n=1), LipoSetupError, r"rollout\.n=1\. Set it to 2 or more"),
        (launch(kl_in_rewards="x=true."), LipoSetupError, r"rule scores, but x=true\."),
        (launch(empties_masks="x empties."), LipoSetupError, "x empties"),
    ],
)
def test_a_launch_that_could_only_fail_later_is_refused(given, error, text):
    with pytest.raises(error, match=text):
        check(given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (launch({"keep": 4}), "keep=4 filters nothing: rollout.n=4"),
        (launch({"scheme": "kimi", "weight_scale": 9}), "do nothing without"),
        (launch(ignored=["x is not read."]), "x is not read."),
        (launch(drops_right_groups="x=true"), "x=true drops the groups that are all right"),
    ],
)
def test_what_does_nothing_or_undoes_the_scheme_is_warned_of_once(given, text, caplog):
    check(given)
    check(given)
    assert [text in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    "scheme", [s for s in schemes() if not s.right_groups], ids=lambda s: s.name
)
def test_dropping_right_groups_is_fine_where_they_teach_nothing(scheme, caplog):
    check(launch({"scheme": scheme.name}, drops_right_groups="x=true"))
    assert not caplog.records


def test_settings_that_another_estimator_leaves_unread_are_named(caplog):
    warn_of_unread(None, "grpo")
    assert not caplog.records
    warn_of_unread({"boost": 1}, "grpo")
    assert "algorithm.adv_estimator=grpo does not read it" in caplog.text


def batch(seed, prompts=3, n=4, width=16):
    """(rewards, mask, uids)"""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (prompts * n, 1), generator=generator)
    mask = (torch.arange(width) < lengths).long()
    rewards = torch.zeros(prompts * n, width)
    rewards[:, 0] = torch.randint(0, 2, (prompts * n,), generator=generator).float()
    return rewards, mask, [k // n for k in range(prompts * n)]


def test_metrics_cover_all_batches_since_they_were_taken_last():
    run, config = Run(), LipoConfig()
    assert run.metrics() == {}
    for seed in range(3):
        run.advantages(*batch(seed), config)
    expected = lipo_metrics(run.groups) | {"lipo/collapse_alarm": 0.0}
    assert len(run.groups) == 3
    assert run.metrics() == pytest.approx(expected)
    assert run.metrics() == {}


def test_batches_whose_metrics_nobody_takes_do_not_pile_up():
    run = Run()
    for seed in range(contract.MOST_KEPT + 3):
        run.advantages(*batch(seed, prompts=1), LipoConfig())
    assert len(run.groups) == contract.MOST_KEPT


def test_a_run_remembers_for_its_scheme_and_logs_what():
    run, config = Run(), LipoConfig(scheme="laser_d", every=5)
    seen = []
    for seed in range(7):
        run.advantages(*batch(seed), config)
        seen.append(run.metrics())
    assert [metrics["lipo/target_age"] for metrics in seen] == [0, 1, 2, 3, 4, 0, 1]
    assert all(1 <= metrics["lipo/target_length_easy"] <= 16 for metrics in seen)


def test_the_accuracy_is_found_under_either_name():
    assert accuracy_of({"format": np.ones(2)}) is None
    for name in contract.ACCURACY:
        assert accuracy_of({"format": np.ones(2), name: [1, 0]}).tolist() == [1, 0]

"""From a batch to groups and back."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lipo_verl import batch
from lipo_verl.batch import token_advantages
from lipo_verl.config import LipoConfig
from lipo_verl.lipo import lipo
from lipo_verl.schemes import Responses

DEFAULT = LipoConfig()


def random_batch(sizes, seed=0, name="prompt-{}".format):
    """(scores, lengths, uids) of groups of these sizes, shuffled."""
    rng = np.random.default_rng(seed)
    uids = [name(g) for g, size in enumerate(sizes) for _ in range(size)]
    order = rng.permutation(len(uids))
    scores = rng.integers(0, 2, len(uids)).astype(np.float64)
    lengths = rng.integers(1, 500, len(uids))
    return scores, lengths, [uids[k] for k in order]


def estimate(scores, lengths, uids, config):
    """As the estimator's, for a batch without truncated responses."""
    return batch.estimate(scores, lengths, np.zeros(len(scores), bool), uids, config)


def group_by_group(scores, lengths, uids, config):
    """The advantages, one group after the other."""
    rows = defaultdict(list)
    for row, uid in enumerate(uids):
        rows[uid].append(row)
    advantages = np.zeros(len(uids))
    for of_group in rows.values():
        if len(of_group) > 1:
            R, L = scores[of_group][None], lengths[of_group][None]
            (result,), _ = lipo([Responses(R, L, R >= 0.5, np.zeros(R.shape, bool))], config)
            advantages[of_group] = result.advantages[0]
    return advantages


@pytest.mark.parametrize(
    "name", ["uid-{}".format, int, lambda g: g + 0.5, lambda g: (g, "a"), lambda g: f"{g:040d}"]
)
@pytest.mark.parametrize("sizes", [[4, 4, 4], [2, 7, 1, 3, 2, 1, 5, 3], [300], [1, 1], [2]])
@pytest.mark.parametrize("config", [DEFAULT, LipoConfig(pairing="adjacent", weight_scale=50)])
def test_groups_by_uid_in_any_order(sizes, name, config):
    scores, lengths, uids = random_batch(sizes, name=name)
    advantages, groups = estimate(scores, lengths, uids, config)
    expected = group_by_group(scores, lengths, uids, config)
    np.testing.assert_allclose(advantages, expected, rtol=1e-9, atol=1e-9)
    assert sorted(n for g in groups for n in [g.rows.shape[1]] * len(g.rows)) == sorted(sizes)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda uids: np.array(uids, object)])
def test_uids_may_be_a_sequence_or_an_array(kind):
    scores, lengths, uids = random_batch([3, 2, 4])
    advantages, _ = estimate(scores, lengths, kind(uids), DEFAULT)
    assert np.array_equal(advantages, estimate(scores, lengths, uids, DEFAULT)[0])
    assert abs(advantages).max() > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_permuted_batch_gives_permuted_advantages(seed):
    scores, lengths, uids = random_batch([2, 7, 1, 3, 2, 5], seed)
    order = np.random.default_rng(seed + 100).permutation(len(uids))
    straight, _ = estimate(scores, lengths, uids, DEFAULT)
    permuted, _ = estimate(scores[order], lengths[order], [uids[k] for k in order], DEFAULT)
    np.testing.assert_allclose(permuted, straight[order], rtol=1e-9, atol=1e-9)


def test_groups_do_not_influence_each_other():
    scores, lengths, uids = random_batch([4, 4, 3])
    straight, _ = estimate(scores, lengths, uids, DEFAULT)
    mine = np.array([uid == "prompt-0" for uid in uids])
    others = np.where(mine, scores, 1 - scores), np.where(mine, lengths, lengths * 3 + 1)
    changed, _ = estimate(*others, uids, DEFAULT)
    assert np.array_equal(changed[mine], straight[mine])
    assert not np.array_equal(changed[~mine], straight[~mine])


def test_returned_groups_point_back_at_the_batch():
    scores, lengths, uids = random_batch([2, 3, 3, 1])
    advantages, groups = estimate(scores, lengths, uids, DEFAULT)
    rows = np.concatenate([group.rows.ravel() for group in groups])
    assert sorted(rows.tolist()) == list(range(9))
    for group in groups:
        assert np.array_equal(group.rewards, scores[group.rows])
        assert np.array_equal(group.lengths, lengths[group.rows])
        assert all(len({uids[row] for row in of_group}) == 1 for of_group in group.rows.tolist())
        if group.result is not None:
            assert np.array_equal(group.result.advantages, advantages[group.rows])


def test_response_without_peers_gets_zero():
    scores, lengths = np.array([1.0, 1.0, 0.0]), np.array([3, 4, 5])
    advantages, groups = estimate(scores, lengths, ["a", "b", "b"], DEFAULT)
    assert advantages[0] == 0 and advantages[1] > 0 > advantages[2]
    assert [group.result is None for group in groups] == [False, True]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e101, -1.7e308])
def test_reward_that_is_not_finite_is_named_with_its_uid(bad):
    scores = np.array([0.0, 1.0, bad, bad])
    with pytest.raises(ValueError) as error:
        estimate(scores, np.ones(4), ["a", "a", "odd-one", "b"], DEFAULT)
    text = str(error.value)
    assert f"uid 'odd-one' (row 2) is {bad}" in text
    assert "2 of 4 rewards are not finite, or beyond 1e+100" in text


def test_empty_response_counts_as_one_token():
    scores, uids = np.array([1.0, 1.0, 0.0]), ["a"] * 3
    empty, groups = estimate(scores, np.array([0, 8, 9]), uids, DEFAULT)
    assert np.array_equal(empty, estimate(scores, np.array([1, 8, 9]), uids, DEFAULT)[0])
    assert groups[0].lengths.tolist() == [[1, 8, 9]]


def test_group_without_a_token_is_padding_and_left_out():
    scores, lengths = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0, 0, 3, 4])
    advantages, groups = estimate(scores, lengths, ["pad", "pad", "a", "a"], DEFAULT)
    assert advantages[:2].tolist() == [0, 0] and advantages[2] > 0 > advantages[3]
    assert [group.rows.tolist() for group in groups] == [[[2, 3]]]
    assert estimate(scores[:2], lengths[:2], ["pad", "pad"], DEFAULT)[1] == []


@pytest.mark.parametrize("score_type", [np.float64, np.float32])
@pytest.mark.parametrize("length_type", [np.int64, np.int32, np.float32])
def test_types_of_the_batch_do_not_change_the_outcome(score_type, length_type):
    scores, lengths, uids = random_batch([4, 3, 2])
    expected, _ = estimate(scores, lengths, uids, DEFAULT)
    advantages, _ = estimate(scores.astype(score_type), lengths.astype(length_type), uids, DEFAULT)
    assert advantages.dtype == np.float64
    assert np.array_equal(advantages, expected)


def test_one_huge_group():
    scores, lengths, uids = random_batch([2000])
    advantages, (group,) = estimate(scores, lengths, uids, DEFAULT)
    assert group.rows.shape == (1, 2000)
    assert np.isfinite(advantages).all() and abs(advantages).max() > 0.1


def test_inputs_are_left_as_they_were():
    scores, lengths, uids = random_batch([4, 3])
    lengths[0] = 0
    before = scores.copy(), lengths.copy()
    estimate(scores, lengths, uids, DEFAULT)
    assert np.array_equal(scores, before[0]) and np.array_equal(lengths, before[1])


@pytest.mark.parametrize("uids", [torch.tensor([0, 0]), ["a"], ["a", "a", "a"]])
def test_anything_but_one_hashable_uid_per_response_is_refused(uids):
    with pytest.raises(ValueError, match="sequence of 2 hashable values, one per response"):
        estimate(np.array([1.0, 0.0]), np.array([3, 4]), uids, DEFAULT)


def test_groups_of_one_are_warned_of_once(caplog):
    batch._warn_of_singletons.cache_clear()
    for _ in range(2):
        estimate(np.array([1.0]), np.array([3]), ["a"], DEFAULT)
    assert [record.message for record in caplog.records] == [
        "LIPO: some prompts are left with one response (aborted rollouts?); their advantage is 0. "
        "Counted as lipo/groups_of_one."
    ]


# Token by token


def token_batch(sizes, width=32, seed=0):
    """(token_level_rewards, response_mask, uids), the score on the last token."""
    scores, lengths, uids = random_batch(sizes, seed)
    lengths = lengths % width + 1
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    rewards = np.zeros((len(uids), width), np.float32)
    rewards[np.arange(len(uids)), lengths - 1] = scores
    return torch.from_numpy(rewards), torch.from_numpy(mask), uids


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask_dtype", [torch.int64, torch.int32, torch.bool, torch.float32])
def test_every_token_of_a_response_gets_its_advantage(dtype, mask_dtype):
    rewards, mask, uids = token_batch([4, 5, 2])
    expected, _ = estimate(rewards.sum(1).numpy(), mask.sum(1).numpy(), uids, DEFAULT)
    expected = torch.from_numpy(expected).to(dtype)[:, None] * mask
    advantages, _ = token_advantages(rewards.to(dtype), mask.to(mask_dtype), uids, DEFAULT)
    assert advantages.dtype == dtype
    assert torch.equal(advantages, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mask_dtype", [torch.int64, torch.bool])
def test_a_response_that_reaches_the_budget_counts_as_truncated(dtype, mask_dtype):
    rewards, mask, uids = token_batch([4, 4, 4])
    rewards, mask = rewards.to(dtype), mask.to(mask_dtype)
    width = mask.shape[1]
    mask[0], mask[1:, -1] = 1, 0
    for budget, cut in ((None, []), (width, [0]), (width + 1, [])):
        expected = np.isin(np.arange(len(mask)), cut)
        _, (group,) = token_advantages(rewards, mask, uids, LipoConfig(response_budget=budget))
        assert np.array_equal(group.truncated, expected[group.rows])


@pytest.mark.parametrize("budget", [24, 32, 33])
def test_padding_may_be_on_either_side(budget):
    rewards, mask, uids = token_batch([4, 4, 4])
    mask[0], mask[1], mask[2] = 1, (torch.arange(32) < 24), (torch.arange(32) < 23)
    config = LipoConfig(response_budget=budget)
    right, (of_right,) = token_advantages(rewards, mask, uids, config)
    left, (of_left,) = token_advantages(rewards.flip(1), mask.flip(1), uids, config)
    assert torch.equal(left.flip(1), right)
    assert np.array_equal(of_left.truncated, of_right.truncated)
    assert np.array_equal(of_right.truncated, mask.sum(1).numpy()[of_right.rows] >= budget)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_rewards_that_are_no_floats_do_not_cut_the_advantages(dtype):
    rewards, mask, uids = token_batch([4, 5, 2])
    expected, _ = token_advantages(rewards, mask, uids, DEFAULT)
    advantages, _ = token_advantages(rewards.to(dtype), mask, uids, DEFAULT)
    assert torch.equal(advantages, expected)
    assert len(advantages.unique()) > 4


def test_lengths_and_cuts_may_come_from_the_framework():
    rewards, mask, uids = token_batch([6])
    lengths, cut = np.array([9.0, 50, 70, 8, 7, 6]), np.array([True] + [False] * 5)
    advantages, (group,) = token_advantages(
        rewards, mask, uids, LipoConfig(response_budget=1), lengths=lengths, truncated=cut
    )
    expected, _ = batch.estimate(rewards.sum(1).numpy(), lengths, cut, uids, DEFAULT)
    assert torch.equal(advantages, torch.from_numpy(expected).float()[:, None] * mask)
    assert np.array_equal(group.lengths, lengths[group.rows])
    assert np.array_equal(group.truncated, cut[group.rows])


def test_an_accuracy_part_says_what_is_correct():
    scores, lengths = np.array([0.5, 0.5, 1.0, 1.0]), np.array([10, 20, 30, 40])
    none = np.zeros(4, bool)

    def correct(accuracy, least=0.5):
        config = LipoConfig(correct_score=least)
        accuracy = np.array(accuracy)
        _, (group,) = batch.estimate(scores, lengths, none, ["a"] * 4, config, accuracy)
        assert np.array_equal(group.result.boosted, group.correct & [True, False, True, False])
        return group.correct[0].tolist()

    assert correct([0, 0, 1, 1]) == [False, False, True, True]
    assert correct([0, math.nan, 1, math.nan]) == [False, True, True, True]
    assert correct([0.4, 0.6, 0.8, 0.9], least=0.8) == [False, False, True, True]
    for least in (-1.0, 0.0, 5.0):  # on another scale than the accuracy's
        assert correct([0, 0, 1, 1], least) == [False, False, True, True]


def test_masks_may_have_holes_and_be_empty():
    rewards, mask, uids = token_batch([4, 4])
    mask[:, 3:6] = 0
    mask[2] = 0
    advantages, groups = token_advantages(rewards, mask, uids, DEFAULT)
    expected, _ = estimate(rewards.sum(1).numpy(), mask.sum(1).numpy(), uids, DEFAULT)
    assert torch.equal(advantages, torch.from_numpy(expected).float()[:, None] * mask)
    assert advantages.isfinite().all()


def test_the_batch_is_left_as_it_was_and_no_gradient_is_kept():
    rewards, mask, uids = token_batch([4, 4])
    rewards.requires_grad_()
    mask = mask.float()
    before = rewards.detach().clone(), mask.clone()
    advantages, _ = token_advantages(rewards, mask, uids, DEFAULT)
    assert torch.equal(rewards, before[0]) and torch.equal(mask, before[1])
    assert not advantages.requires_grad
    (advantages * torch.ones_like(rewards, requires_grad=True)).sum().backward()


@settings(deadline=None, derandomize=True, max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from([0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 1e300]),
                st.floats(-1e30, 1e30),
            ),
            st.lists(st.booleans(), min_size=5, max_size=5),
            st.sampled_from(["a", "b", 1, 2, ("a", 1), None]),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([None, 1, 5, 9]),
)
def test_whatever_comes_is_answered_by_finite_advantages_or_the_uids_error(batch, dtype, budget):
    values, masks, uids = zip(*batch, strict=True)
    rewards = torch.zeros(len(uids), 5, dtype=dtype)
    rewards[:, 2] = torch.tensor(values, dtype=torch.float64).to(dtype)
    config = LipoConfig(response_budget=budget, sign_clamp=True, min_pass_rate=0.2)
    if not (rewards.double().abs() <= 1e100).all():
        with pytest.raises(ValueError, match="LIPO: the reward of uid"):
            token_advantages(rewards, torch.tensor(masks), uids, config)
        return
    advantages, groups = token_advantages(rewards, torch.tensor(masks), uids, config)
    assert advantages.isfinite().all()
    assert (advantages[~torch.tensor(masks)] == 0).all()
    for row, uid in enumerate(uids):
        if uids.count(uid) == 1:
            assert (advantages[row] == 0).all()

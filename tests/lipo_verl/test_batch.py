"""From a batch to groups and back."""

import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from lipo_verl.batch import estimate
from lipo_verl.config import LipoConfig
from lipo_verl.lipo import lipo

DEFAULT = LipoConfig()


def random_batch(sizes, seed=0, name="prompt-{}".format):
    """(scores, lengths, uids) of groups of these sizes, shuffled."""
    rng = np.random.default_rng(seed)
    uids = [name(g) for g, size in enumerate(sizes) for _ in range(size)]
    order = rng.permutation(len(uids))
    scores = torch.from_numpy(rng.integers(0, 2, len(uids)).astype(np.float64))
    lengths = torch.from_numpy(rng.integers(1, 500, len(uids)))
    return scores, lengths, [uids[k] for k in order]


def group_by_group(scores, lengths, uids, config):
    """The advantages, one group after the other."""
    rows = defaultdict(list)
    for row, uid in enumerate(uids):
        rows[uid].append(row)
    advantages = torch.zeros(len(uids), dtype=torch.float64)
    for of_group in rows.values():
        if len(of_group) > 1:
            result = lipo(scores[of_group][None], lengths[of_group][None], **config.arguments())
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
    torch.testing.assert_close(advantages, expected, rtol=1e-9, atol=1e-9)
    assert sorted(n for g in groups for n in [g.rows.shape[1]] * len(g.rows)) == sorted(sizes)


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda uids: np.array(uids, object)])
def test_uids_may_be_a_sequence_or_an_array(kind):
    scores, lengths, uids = random_batch([3, 2, 4])
    advantages, _ = estimate(scores, lengths, kind(uids), DEFAULT)
    assert torch.equal(advantages, estimate(scores, lengths, uids, DEFAULT)[0])
    assert advantages.abs().max() > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_permuted_batch_gives_permuted_advantages(seed):
    scores, lengths, uids = random_batch([2, 7, 1, 3, 2, 5], seed)
    order = np.random.default_rng(seed + 100).permutation(len(uids))
    straight, _ = estimate(scores, lengths, uids, DEFAULT)
    permuted, _ = estimate(scores[order], lengths[order], [uids[k] for k in order], DEFAULT)
    torch.testing.assert_close(permuted, straight[order], rtol=1e-9, atol=1e-9)


def test_groups_do_not_influence_each_other():
    scores, lengths, uids = random_batch([4, 4, 3])
    straight, _ = estimate(scores, lengths, uids, DEFAULT)
    mine = torch.tensor([uid == "prompt-0" for uid in uids])
    others = torch.where(mine, scores, 1 - scores), torch.where(mine, lengths, lengths * 3 + 1)
    changed, _ = estimate(*others, uids, DEFAULT)
    assert torch.equal(changed[mine], straight[mine])
    assert not torch.equal(changed[~mine], straight[~mine])


def test_returned_groups_point_back_at_the_batch():
    scores, lengths, uids = random_batch([2, 3, 3, 1])
    advantages, groups = estimate(scores, lengths, uids, DEFAULT)
    rows = torch.cat([group.rows.flatten() for group in groups])
    assert sorted(rows.tolist()) == list(range(9))
    for group in groups:
        assert torch.equal(group.rewards, scores[group.rows])
        assert torch.equal(group.lengths, lengths[group.rows].double())
        assert all(len({uids[row] for row in of_group}) == 1 for of_group in group.rows.tolist())
        if group.result is not None:
            assert torch.equal(group.result.advantages, advantages[group.rows])


def test_response_without_peers_gets_zero():
    scores, lengths = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([3, 4, 5])
    advantages, groups = estimate(scores, lengths, ["a", "b", "b"], DEFAULT)
    assert advantages[0] == 0 and advantages[1] > 0 > advantages[2]
    assert [group.result is None for group in groups] == [True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_reward_that_is_not_finite_is_named_with_its_uid(bad):
    scores = torch.tensor([0.0, 1.0, bad, bad])
    with pytest.raises(ValueError) as error:
        estimate(scores, torch.ones(4), ["a", "a", "odd-one", "b"], DEFAULT)
    text = str(error.value)
    assert f"uid 'odd-one' (row 2) is {bad}" in text
    assert "2 of 4 rewards are not finite" in text


def test_empty_response_counts_as_one_token():
    scores, uids = torch.tensor([1.0, 1.0, 0.0]), ["a"] * 3
    empty, groups = estimate(scores, torch.tensor([0, 8, 9]), uids, DEFAULT)
    assert torch.equal(empty, estimate(scores, torch.tensor([1, 8, 9]), uids, DEFAULT)[0])
    assert groups[0].lengths.tolist() == [[1, 8, 9]]


def test_batch_of_empty_responses_is_finite():
    advantages, _ = estimate(torch.tensor([1.0, 0.0]), torch.zeros(2), ["a", "a"], DEFAULT)
    assert advantages.tolist() == pytest.approx([2**-0.5, -(2**-0.5)], abs=1e-5)


@pytest.mark.parametrize("score_type", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length_type", [torch.int64, torch.int32, torch.float32])
def test_types_of_the_batch_do_not_change_the_outcome(score_type, length_type):
    scores, lengths, uids = random_batch([4, 3, 2])
    expected, _ = estimate(scores, lengths, uids, DEFAULT)
    advantages, _ = estimate(scores.to(score_type), lengths.to(length_type), uids, DEFAULT)
    assert advantages.dtype == torch.float64
    assert torch.equal(advantages, expected)


def test_inputs_are_left_as_they_were():
    scores, lengths, uids = random_batch([4, 3])
    lengths[0] = 0
    before = scores.clone(), lengths.clone()
    estimate(scores, lengths, uids, DEFAULT)
    assert torch.equal(scores, before[0]) and torch.equal(lengths, before[1])


@pytest.mark.parametrize("uids", [torch.tensor([0, 0]), ["a"], ["a", "a", "a"]])
def test_anything_but_one_hashable_uid_per_response_is_refused(uids):
    with pytest.raises(ValueError, match="sequence of 2 hashable values, one per response"):
        estimate(torch.tensor([1.0, 0.0]), torch.tensor([3, 4]), uids, DEFAULT)


def test_groups_of_one_are_warned_of_once(caplog):
    from lipo_verl import batch

    batch._warn_of_singletons.cache_clear()
    for _ in range(2):
        estimate(torch.tensor([1.0]), torch.tensor([3]), ["a"], DEFAULT)
    assert [record.message for record in caplog.records] == [
        "LIPO: some prompts are left with one response (aborted rollouts?); their advantage is 0. "
        "Counted as lipo/groups_of_one."
    ]

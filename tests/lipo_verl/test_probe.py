"""The trial that decides whether LIPO works in a verl: with what a trainer may do to a batch."""

import pytest
import torch

pytest.importorskip("verl")

from lipo_verl.probe import fault


def lengths(rewards, mask, uids):
    """Advantages that tell every response, and every change of its mask, from the others."""
    places = torch.tensor([ord(uid) for uid in uids])[:, None]
    return (rewards.sum(1, keepdim=True) + mask.sum(1, keepdim=True) / 7 + places) * mask


def trainer(change=lambda rewards, mask, uids: (rewards, mask, uids)):
    def compute_advantage(data, adv_estimator, config):
        assert (adv_estimator, config) == ("name", {"a": "section"})
        batch = data.batch["token_level_rewards"], data.batch["response_mask"]
        data.batch["advantages"] = lengths(*change(*batch, data.non_tensor_batch["uid"]))
        return data

    return compute_advantage


def outcome(compute_advantage):
    return fault(compute_advantage, "name", {"a": "section"}, lengths)


def test_a_trainer_that_hands_over_what_it_has_passes():
    assert outcome(trainer()) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda rewards, mask, uids: (rewards, torch.ones_like(mask), uids),
        lambda rewards, mask, uids: (rewards.flip(0), mask, uids),
        lambda rewards, mask, uids: (rewards - 0.01, mask, uids),
        lambda rewards, mask, uids: (rewards, mask, uids[::-1]),
    ],
    ids=["mask", "order", "rewards", "groups"],
)
def test_a_trainer_that_changes_it_does_not(change):
    assert outcome(trainer(change)).startswith("makes other advantages of name")


def test_a_trainer_that_fails_does_not():
    def broken(data, adv_estimator, config):
        raise KeyError("values")

    assert outcome(broken) == "fails in compute_advantage (KeyError: 'values')"

"""Whichever of these tests imports verl first, it does so on the CPU platform."""

import os

import pytest

os.environ.setdefault("VERL_PLATFORM", "cpu")


@pytest.fixture(scope="session")
def small():
    """Settings of a run that takes the quickstart's model a minute or two."""
    return (
        "trainer.val_before_train=false",
        "data.train_batch_size=4",
        "data.max_response_length=32",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.rollout.n=3",
    )


@pytest.fixture(scope="session")
def whole_tensors():
    """The function that puts a model's fp32 tensors together from what each of two ranks saved."""
    import torch

    def whole(actor):
        ranks = [
            torch.load(actor / f"model_world_size_2_rank_{rank}.pt", weights_only=False)
            for rank in range(2)
        ]
        return {
            name: torch.cat([rank[name].to_local() for rank in ranks]).view(ranks[0][name].shape)
            for name in ranks[0]
        }

    return whole

"""Whether LIPO works in the verl at hand: a trial decides, not the version."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

TESTED = ("0.5.", "0.6.", "0.7.", "0.8.", "0.9.", "0.10.0.dev")
"""How the versions of verl begin that the plug-in's tests were run in."""

TESTED_TEXT = "verl 0.5.0 to 0.9.1 and its main branch, 0.10.0.dev"


def fault(
    compute_advantage: Callable[..., Any],
    estimator: str,
    algorithm: Any,
    expected: Callable[[Tensor, Tensor, np.ndarray], Tensor],
) -> str | None:
    """What is wrong with the advantages that the trainer's own function gives a small batch.

    Args:
        compute_advantage: verl's.
        estimator: the name under which it finds the estimator.
        algorithm: the `algorithm` section that the estimator is to see.
        expected: (rewards (B, T), mask (B, T), uids (B,)) → the advantages (B, T).

    Returns:
        A sentence's end, after "verl"; None if nothing is wrong.
    """
    from verl import DataProto

    rewards = torch.tensor([[0.0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]])
    mask = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 1, 1]])
    uids = np.array(["a", "a", "b", "b", "a"], object)
    tensors = {
        "prompts": torch.ones(5, 1, dtype=torch.int64),
        "responses": torch.ones_like(mask),
        "response_mask": mask,
        "attention_mask": torch.cat([torch.ones(5, 1, dtype=torch.int64), mask], 1),
        "token_level_scores": rewards,
        "token_level_rewards": rewards,
    }
    data = DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids})
    try:
        done = compute_advantage(data, adv_estimator=estimator, config=algorithm)
        advantages = done.batch["advantages"]
    except Exception as error:
        return f"fails in compute_advantage ({type(error).__name__}: {error})"
    if not torch.equal(advantages, expected(rewards, mask, uids)):
        return f"makes other advantages of {estimator} than it computes itself"
    return None

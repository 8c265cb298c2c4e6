"""What EasyR1 loads: `worker.reward.reward_function=$(python -m lipo_verl.rewards easyr1)`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lipo_verl.rewards.errors import RewardSetupError
from lipo_verl.rewards.scoring import TASKS, RewardConfig, score_response

REWARD_NAME = "lipo_verl"
REWARD_TYPE = "batch"


def compute_score(
    reward_inputs: Sequence[dict[str, Any]], **settings: Any
) -> list[dict[str, float]]:
    """The scores of a batch, in order.

    Args:
        reward_inputs: B dicts with `response` and `ground_truth`.
        settings: those of `lipo_verl.rewards.scoring.RewardConfig`, from
            `worker.reward.reward_function_kwargs`; `task` must be among them, since EasyR1 does
            not say where a sample comes from.

    Returns:
        B dicts as of `lipo_verl.rewards.scoring.score_response`, with EasyR1's `overall`
        for `score`.

    Raises:
        RewardSetupError: see `score_response`; it ends the run.
        RewardErrorRate: the same.
    """
    config = RewardConfig.parse(settings)
    task = config.task
    if task is None:
        raise RewardSetupError(
            "EasyR1 does not say how to score its samples. Set "
            f"worker.reward.reward_function_kwargs.task to one of: {', '.join(TASKS)}."
        )

    def score(sample: dict[str, Any]) -> dict[str, float]:
        parts = score_response(sample["response"], sample["ground_truth"], task, config)
        return {"overall": parts.pop("score"), **parts}

    with ThreadPoolExecutor(config.workers) as threads:
        return list(threads.map(score, reward_inputs))

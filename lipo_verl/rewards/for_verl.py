"""What verl calls: `reward.custom_reward_function.path=pkg://lipo_verl.rewards.for_verl`."""

from collections.abc import Mapping
from typing import Any

from lipo_verl.rewards import stop
from lipo_verl.rewards.errors import RewardErrorRate, RewardSetupError
from lipo_verl.rewards.scoring import RewardConfig, score_response


def compute_score(
    data_source: str | None,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    reward_router_address: str | None = None,
    reward_model_tokenizer: Any = None,
    **settings: Any,
) -> dict[str, float]:
    """The score of one response; verl calls it from the threads of its reward workers.

    Args:
        settings: those of `lipo_verl.rewards.scoring.RewardConfig`, from
            `reward.custom_reward_function.reward_kwargs`; the two arguments before them are
            verl's and not used.

    Returns:
        As `lipo_verl.rewards.scoring.score_response`, with `acc`, the name that verl's
        validation looks for, for `accuracy`.

    Raises:
        RewardSetupError: see `score_response`; the trainer is asked to stop.
        RewardErrorRate: the same.
    """
    try:
        config = RewardConfig.parse(settings)
        task = config.task_of(data_source, extra_info)
        parts = score_response(solution_str, ground_truth, task, config, data_source)
    except (RewardSetupError, RewardErrorRate) as error:
        stop.ask_to_stop(f"{type(error).__name__}: {error}")
        raise
    return {"score": parts["score"], "acc": parts.pop("accuracy"), **parts}

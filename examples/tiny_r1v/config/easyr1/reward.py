"""The recipe's reward in EasyR1: that of each row's own task, and DAPO's overlong penalty.

EasyR1 hands a reward nothing but response and truth, so the recipe's files carry the task beside
the truth, in the column ``reward_model``, which ``data.answer_key`` names. verl reads the same
files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lipo_verl.rewards import for_easyr1
from lipo_verl.rewards.errors import RewardSetupError
from lipo_verl.rewards.scoring import TASKS

REWARD_NAME = "tiny_r1v"
REWARD_TYPE = "batch"


def compute_score(
    reward_inputs: Sequence[dict[str, Any]],
    *,
    overlong_budget: int | None = None,
    overlong_buffer: int = 0,
    overlong_penalty: float = 0.0,
    **settings: Any,
) -> list[dict[str, float]]:
    """The scores of a batch, in order.

    reward_inputs:    B dicts with ``response``, ``response_length`` in tokens, and
                      ``ground_truth``, a dict of ``ground_truth`` and ``task``
    overlong_budget:  most tokens of a response; None: no penalty
    overlong_buffer:  over the last so many tokens of the budget the score falls, linearly
    overlong_penalty: by so much in the end
    settings:         those of lipo_verl's reward but ``task``
    returns:          B dicts as of :func:`lipo_verl.rewards.for_easyr1.compute_score`, with
                      ``overlong``, what was taken off, where there is a penalty

    Raises RewardSetupError for a row without a task.
    """
    scores: list[dict[str, float]] = [{}] * len(reward_inputs)
    for task in TASKS:
        rows = [i for i, each in enumerate(reward_inputs) if _task(each["ground_truth"]) == task]
        if not rows:
            continue
        inputs = [
            {**reward_inputs[i], "ground_truth": reward_inputs[i]["ground_truth"]["ground_truth"]}
            for i in rows
        ]
        of_task = for_easyr1.compute_score(inputs, task=task, **settings)
        for i, score in zip(rows, of_task, strict=True):
            scores[i] = score
    if overlong_budget is None:
        return scores
    penalties = [
        overlong_penalty
        * max(0.0, each["response_length"] - overlong_budget + overlong_buffer)
        / overlong_buffer
        for each in reward_inputs
    ]
    return [
        {**score, "overall": score["overall"] - penalty, "overlong": -penalty}
        for score, penalty in zip(scores, penalties, strict=True)
    ]


def _task(truth: Any) -> str:
    task = truth.get("task") if isinstance(truth, dict) else None
    if task not in TASKS:
        raise RewardSetupError(
            f"The truth {truth!r} names no task: {', '.join(TASKS)}. Set data.answer_key="
            "reward_model, and make the files with python -m examples.tiny_r1v.data."
        )
    return task

"""The reward as EasyR1 loads and calls it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lipo_verl.rewards import for_easyr1
from lipo_verl.rewards.errors import RewardErrorRate, RewardSetupError

EASYR1_HOME = os.environ.get("EASYR1_HOME")
REPOSITORY = Path(__file__).parents[3]

BATCH = [
    {"response": "so \\boxed{7}", "response_length": 5, "ground_truth": "7.0"},
    {"response": "so \\boxed{8}", "response_length": 5, "ground_truth": "7"},
    {"response": "no idea", "response_length": 2, "ground_truth": "7"},
]


def test_a_batch_is_scored_in_order():
    scores = for_easyr1.compute_score(BATCH, task="exact")
    assert [s["overall"] for s in scores] == [1.0, 0.0, 0.0]
    assert [s["answer_found"] for s in scores] == [1.0, 1.0, 0.0]
    assert all(s.keys() == scores[0].keys() and "score" not in s for s in scores)


def test_order_is_kept_where_processes_compare():
    pytest.importorskip("math_verify")
    batch = [
        {"response": f"\\boxed{{{i}/2}}", "response_length": 1, "ground_truth": f"{i % 3 / 2}"}
        for i in range(30)
    ]
    scores = for_easyr1.compute_score(batch, task="math", workers=2, timeout=30)
    assert [s["overall"] for s in scores] == [float(i < 3) for i in range(30)]


def test_a_batch_without_a_task_is_refused():
    with pytest.raises(RewardSetupError, match="reward_function_kwargs.task"):
        for_easyr1.compute_score(BATCH)


def test_too_many_errors_end_the_batch():
    with pytest.raises(RewardErrorRate):
        for_easyr1.compute_score(BATCH * 100, task="choice")


MANAGER = """
import numpy as np, sys, torch
from types import SimpleNamespace
from verl.protocol import DataProto
from verl.workers.reward import AutoRewardManager
from verl.workers.reward.config import RewardConfig

config = RewardConfig(reward_function=sys.argv[1], reward_function_kwargs={"task": "exact"})
config.post_init()
texts = {1: "so \\\\boxed{7}", 2: "so \\\\boxed{8}"}
tokenizer = SimpleNamespace(decode=lambda ids, **_: texts[int(ids[0])])
data = DataProto.from_dict(
    tensors={"responses": torch.tensor([[1, 5, 0], [2, 0, 0]]),
             "response_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])},
    non_tensors={"ground_truth": np.array(["7", "7"], dtype=object)},
)
tensor, parts = AutoRewardManager(config, tokenizer).compute_reward(data)
assert tensor.tolist() == [[0, 1, 0], [0, 0, 0]], tensor
print(dict(parts))
"""


@pytest.mark.skipif(not EASYR1_HOME, reason="EASYR1_HOME names no checkout of EasyR1")
def test_easyr1s_own_manager_loads_the_printed_value_and_logs_every_part():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([EASYR1_HOME, str(REPOSITORY)])}

    def run(*command):
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    value = run("-m", "lipo_verl.rewards", "easyr1")
    parts = run("-c", MANAGER, value)
    for name in ("overall", "accuracy", "format", "answer_found", "reward_error", "reward_timeout"):
        assert f"'{name}': [" in parts

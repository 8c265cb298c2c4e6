"""The recipe's EasyR1 files: put together, in EasyR1's own configuration, and their reward.

``EASYR1_HOME`` names a checkout of EasyR1; without it, what needs EasyR1 is skipped. Run it with
the Python that has EasyR1's requirements, as ``make test-easyr1`` does.
"""

import importlib.util
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from examples.tiny_r1v.config.easyr1.compose import HERE, compose
from lipo_verl.rewards import for_verl
from lipo_verl.rewards.errors import RewardSetupError

REPOSITORY = Path(__file__).parents[3]
EASYR1_HOME = os.environ.get("EASYR1_HOME")
RUNS = list(
    product(("lipo", "grpo", "dapo"), ("math", "structure", "ocr", "mixture"), (1, 2, 4, 8, 16))
)


def composed(tmp_path, algorithm, expert, gpus):
    return compose(
        algorithm=algorithm, expert=expert, gpus=gpus, data=tmp_path / "data", output=tmp_path
    )


def test_pieces_become_one_file_without_anything_left_open(tmp_path):
    for algorithm, expert, gpus in RUNS:
        config = composed(tmp_path, algorithm, expert, gpus)
        assert not OmegaConf.missing_keys(config)
        assert "recipe" not in config
        assert config.data.train_files == f"{tmp_path}/data/{expert}/train.parquet"
        assert config.trainer.n_gpus_per_node == gpus
        assert config.trainer.max_steps == (360 if expert == "mixture" else 120)
        assert config.trainer.save_freq == config.trainer.val_freq


def test_every_number_of_gpus_takes_the_pieces_of_the_next_smaller_machine(tmp_path):
    for gpus, machine in {1: 1, 2: 2, 3: 2, 6: 4, 8: 8, 16: 8}.items():
        config = composed(tmp_path, "lipo", "ocr", gpus)
        assert config.trainer.pop("n_gpus_per_node") == gpus
        piece = OmegaConf.load(HERE / f"machine/gpus_{machine}.yaml")
        assert OmegaConf.merge(config.worker, piece.worker) == config.worker


def test_validation_is_greedy_as_in_verl(tmp_path):
    config = composed(tmp_path, "lipo", "ocr", 8)
    assert config.worker.rollout.val_override_config == {"temperature": 0, "top_p": 1, "n": 1}


def test_lipo_and_grpo_differ_in_nothing_but_the_estimator(tmp_path):
    lipo, grpo = (composed(tmp_path, algorithm, "ocr", 8) for algorithm in ("lipo", "grpo"))
    assert lipo.algorithm.pop("lipo").length_threshold == 2048
    assert (lipo.algorithm.pop("adv_estimator"), grpo.algorithm.pop("adv_estimator")) == (
        "lipo",
        "grpo",
    )
    assert (lipo.trainer.pop("experiment_name"), grpo.trainer.pop("experiment_name")) == (
        "lipo-ocr",
        "grpo-ocr",
    )
    assert lipo == grpo


def test_settings_of_the_command_line_reach_what_follows_from_them(tmp_path):
    """As EasyR1 puts them over the file."""
    longer = OmegaConf.from_dotlist(["data.max_response_length=4096"])
    for algorithm, key in {
        "lipo": "algorithm.lipo.length_threshold",
        "dapo": "worker.reward.reward_function_kwargs.overlong_budget",
    }.items():
        config = composed(tmp_path, algorithm, "ocr", 8)
        assert OmegaConf.select(config, key) == 2048
        assert OmegaConf.select(OmegaConf.merge(config, longer), key) == 4096
    assert config.worker.rollout.max_model_len is None  # EasyR1 then takes prompt and response


def test_a_piece_that_is_not_there_is_named(tmp_path):
    command = [sys.executable, "-m", "examples.tiny_r1v.config.easyr1.compose", "--gpus", "8"]
    paths = [f"--{name}={tmp_path}" for name in ("data", "output", "target")]
    done = subprocess.run(
        [*command, *paths, "--algorithm", "lipo", "--expert", "maths"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "expert/maths.yaml: the recipe has no such piece" in done.stderr


LOADS = """
import json, sys
from omegaconf import OmegaConf
from lipo_verl.easyr1 import hook
hook.install()
from verl.trainer.config import PPOConfig
for path in sys.argv[1:]:
    merged = OmegaConf.merge(OmegaConf.structured(PPOConfig()), OmegaConf.load(path))
    config = OmegaConf.to_object(merged)
    config.deep_post_init()
    print(json.dumps({
        "estimator": config.algorithm.adv_estimator,
        "lipo": config.algorithm.lipo,
        "reward": [config.worker.reward.reward_function, config.worker.reward.reward_function_name],
        "response": config.worker.rollout.response_length,
        "batch": config.worker.actor.global_batch_size * config.worker.rollout.n,
        "micro": config.worker.actor.micro_batch_size_per_device_for_update,
    }))
"""


def test_every_file_loads_in_easyr1s_own_configuration(tmp_path):
    """And passes its checks of what does not need a GPU, and LIPO's launch check."""
    if not EASYR1_HOME:
        pytest.skip("EASYR1_HOME names no checkout of EasyR1")
    doubles = REPOSITORY / "tests" / "lipo_verl" / "easyr1" / "doubles"
    paths = []
    for algorithm, expert, gpus in RUNS:
        paths.append(tmp_path / f"{algorithm}-{expert}-{gpus}.yaml")
        OmegaConf.save(composed(tmp_path, algorithm, expert, gpus), paths[-1])
    done = subprocess.run(
        [sys.executable, "-c", LOADS, *map(str, paths)],
        env=os.environ | {"PYTHONPATH": f"{doubles}:{EASYR1_HOME}:{REPOSITORY}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(loaded) == len(RUNS)
    for (algorithm, _, gpus), config in zip(RUNS, loaded, strict=True):
        assert config["estimator"] == ("lipo" if algorithm == "lipo" else "grpo")
        assert bool(config["lipo"]) == (algorithm == "lipo")
        assert config["reward"] == [str(HERE / "reward.py"), "compute_score"]
        assert config["response"] == 2048
        # As its FSDPWorker asks for: whole micro batches on each GPU.
        assert config["batch"] % (gpus * config["micro"]) == 0


# The reward


@pytest.fixture(scope="module")
def compute_score():
    """As EasyR1 loads it: by its path."""
    spec = importlib.util.spec_from_file_location("custom_reward_fn", HERE / "reward.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.compute_score


ROWS = [
    ("ocr", "abcd", r"<think>x</think> \boxed{abcx}", 10),
    ("exact", "Paris", r"<think>x</think> \boxed{paris}", 1700),
    ("choice", "B", r"\boxed{B}", 1843),
    ("relaxed", "100", r"<think>x</think> \boxed{104}", 2048),
    ("ocr", "abcd", "nothing", 2048),
]


def inputs(rows=ROWS):
    return [
        {
            "response": response,
            "response_length": length,
            "ground_truth": {"style": "rule", "ground_truth": truth, "task": task},
        }
        for task, truth, response, length in rows
    ]


def test_every_row_is_scored_as_in_verl(compute_score):
    scores = compute_score(inputs(), template="think_boxed")
    for (task, truth, response, _), score in zip(ROWS, scores, strict=True):
        verl = for_verl.compute_score(
            "tiny_r1v/x", response, truth, {"reward_task": task}, template="think_boxed"
        )
        assert score["overall"] == verl["score"]
        assert score["accuracy"] == verl["acc"]


def test_the_overlong_penalty_is_dapos(compute_score):
    budget = {"overlong_budget": 2048, "overlong_buffer": 410, "overlong_penalty": 1.0}
    plain = compute_score(inputs(), template="think_boxed")
    penalised = compute_score(inputs(), template="think_boxed", **budget)
    for (*_, length), before, after in zip(ROWS, plain, penalised, strict=True):
        of_verl = min(-(length - (2048 - 410)) / 410 * 1.0, 0)
        assert after["overall"] == pytest.approx(before["overall"] + of_verl)
        assert after["overlong"] == pytest.approx(of_verl)
        assert after["accuracy"] == before["accuracy"]


@pytest.mark.parametrize(
    "truth", ["42", {"ground_truth": "42"}, {"ground_truth": "4", "task": "x"}]
)
def test_a_truth_without_a_task_is_refused(compute_score, truth):
    row = {"response": "42", "response_length": 1, "ground_truth": truth}
    with pytest.raises(RewardSetupError, match="names no task.*data.answer_key=reward_model"):
        compute_score([row])

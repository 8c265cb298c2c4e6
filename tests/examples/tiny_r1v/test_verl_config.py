"""The recipe's configurations in verl's own configuration system, up to where it needs a GPU."""

import asyncio
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("verl")

import hydra
import numpy as np
import torch
from omegaconf import OmegaConf
from verl import DataProto
from verl.experimental.reward_loop.reward_manager.registry import (
    get_reward_manager_cls,
)
from verl.trainer.ppo.reward import get_custom_reward_fn
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils import config as verl_config

from lipo_verl.config import LipoSetupError
from lipo_verl.cpu.launch import ARGUMENTS

CONFIG = Path(__file__).parents[3] / "examples" / "tiny_r1v" / "config" / "verl"
EXPERTS = ("math", "structure", "ocr", "mixture")
ALGORITHMS = ("lipo", "grpo", "dapo")


def compose(algorithm="lipo", expert="math", machine="gpus_8", size="3b", overrides=()):
    """As verl.trainer.main_ppo composes it, or lipo_verl.cpu where ``machine`` is "cpu"."""
    if machine == "cpu":
        cpu = ARGUMENTS[1:]
        of_machine = ["actor_rollout_ref.model.path=base"]
    else:
        cpu = ()
        of_machine = [f"+tiny_r1v/machine={machine}"]
    search = f"hydra.searchpath=[file://{CONFIG},pkg://lipo_verl.cpu.config]"
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose(
            "ppo_trainer",
            overrides=[
                search,
                *cpu,
                "+tiny_r1v=common",
                f"+tiny_r1v/size={size}",
                *of_machine,
                f"+tiny_r1v/expert={expert}",
                f"+tiny_r1v/algorithm={algorithm}",
                "recipe.data=/data",
                "recipe.output=/run",
                *overrides,
            ],
        )


def validate(config):
    """What main_ppo does before it starts Ray; LIPO's own check is in verl's validate_config."""
    verl_config.validate_config(config, need_reference_policy(config), need_critic(config))


@pytest.mark.parametrize("algorithm, expert", list(product(ALGORITHMS, EXPERTS)))
def test_every_run_composes_and_passes_verls_validation(algorithm, expert):
    config = compose(algorithm, expert)
    validate(config)
    assert not OmegaConf.missing_keys(config.recipe)
    resolved = OmegaConf.to_container(config, resolve=True)
    assert resolved["data"]["train_files"] == f"/data/{expert}/train.parquet"
    assert resolved["trainer"]["total_training_steps"] == (360 if expert == "mixture" else 120)
    assert resolved["trainer"]["save_freq"] == resolved["trainer"]["test_freq"]
    assert resolved["trainer"]["default_local_dir"] == "/run/checkpoints"
    assert resolved["actor_rollout_ref"]["rollout"]["load_format"] == "auto"


@pytest.mark.parametrize("machine", ["gpus_1", "gpus_2", "gpus_4", "gpus_8"])
def test_every_machine_gets_a_valid_configuration_with_the_same_global_batch(machine):
    config = compose(machine=machine)
    validate(config)
    assert config.trainer.n_gpus_per_node == int(machine.removeprefix("gpus_"))
    actor = config.actor_rollout_ref.actor
    assert (config.data.train_batch_size, actor.ppo_mini_batch_size) == (512, 128)
    assert actor.use_dynamic_bsz is True
    longest = config.data.max_prompt_length + config.data.max_response_length
    assert actor.ppo_max_token_len_per_gpu >= longest
    assert config.actor_rollout_ref.rollout.max_model_len >= longest


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_quickstart_is_the_same_recipe_at_another_size(algorithm):
    config = compose(algorithm, size="quickstart", machine="cpu")
    validate(config)
    assert config.trainer.device == "cpu"
    quickstart, full = (
        OmegaConf.to_container(each.algorithm) for each in (config, compose(algorithm))
    )
    for section in (quickstart, full):
        section.pop("lipo", None)  # its length threshold is the response budget
    assert quickstart == full


def test_lipo_gets_its_budget_as_length_threshold():
    config = compose("lipo")
    validate(config)
    assert config.algorithm.lipo.length_threshold == config.data.max_response_length == 2048
    assert config.algorithm.lipo.response_budget == 2048


def test_a_launch_that_lipo_cannot_work_with_is_refused():
    with pytest.raises(LipoSetupError, match="rollout.n=1"):
        validate(compose("lipo", overrides=["actor_rollout_ref.rollout.n=1"]))


def test_lipo_and_grpo_differ_in_nothing_but_the_estimator():
    lipo, grpo = (
        OmegaConf.to_container(compose(algorithm), resolve=True) for algorithm in ("lipo", "grpo")
    )
    del lipo["algorithm"]["lipo"]
    assert lipo["algorithm"].pop("adv_estimator") == "lipo"
    assert grpo["algorithm"].pop("adv_estimator") == "grpo"
    assert lipo == grpo


def test_dapo_samples_dynamically_by_accuracy_in_the_v1_trainer():
    config = compose("dapo")
    assert config.trainer.use_v1 and config.trainer.v1.trainer_mode == "sync"
    assert PPOTrainer._resolve_filter_groups_metric(SimpleNamespace(config=config)) == "acc"
    assert not need_reference_policy(config)
    actor = config.actor_rollout_ref.actor
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.28)
    assert actor.loss_agg_mode == "token-mean"


def reward_of(config, response_tokens, score=1.0):
    """What verl's reward manager of ``config`` makes of a response of so many tokens."""
    config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    manager_class = get_reward_manager_cls(config.reward.reward_manager.name)

    async def run():
        manager = manager_class(
            config,
            SimpleNamespace(decode=lambda ids, **_: "response"),
            lambda **_: {"score": score, "acc": score},
        )
        length = config.data.max_response_length
        attention = (torch.arange(length) < response_tokens).long()
        data = DataProto.from_dict(
            tensors={
                "responses": torch.zeros(1, length, dtype=torch.long),
                "attention_mask": attention[None],
            },
            non_tensors={
                key: np.array([value], dtype=object)
                for key, value in {
                    "data_source": "tiny_r1v/math",
                    "reward_model": {"ground_truth": "1"},
                    "extra_info": {},
                }.items()
            },
        )
        return await manager.run_single(data)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "tokens, penalty", [(100, 0), (2048 - 410, 0), (2048 - 205, 0.5), (2048, 1.0)]
)
def test_dapo_takes_off_up_to_one_over_the_last_fifth_of_the_budget(tokens, penalty):
    result = reward_of(compose("dapo"), tokens)
    assert float(result["reward_score"]) == pytest.approx(1 - penalty)
    assert result["reward_extra_info"]["acc"] == 1.0


def test_only_dapo_has_an_overlong_penalty():
    assert reward_of(compose("grpo"), 2048)["reward_score"] == 1.0


@pytest.mark.parametrize(
    "task, truth, response, score",
    [
        ("math", "1/2", r"<think>so</think> \boxed{\frac{1}{2}}", 1.0),
        ("math", "1/2", r"\boxed{\frac{1}{2}}", 0.9),
        ("exact", "Paris", r"<think>so</think> \boxed{Rome}", 0.1),
        ("ocr", "abcd", r"<think>so</think> \boxed{abcx}", 0.9 * 0.75 + 0.1),
    ],
)
def test_the_reward_is_that_of_the_rows_own_task_with_a_tenth_for_the_form(
    task, truth, response, score
):
    compute_score = get_custom_reward_fn(compose(expert="mixture"))
    result = compute_score(
        data_source="tiny_r1v/structure",
        solution_str=response,
        ground_truth=truth,
        extra_info={"reward_task": task},
    )
    assert result["score"] == pytest.approx(score)


def test_the_quickstarts_reward_knows_its_three_tasks():
    compute_score = get_custom_reward_fn(compose(size="quickstart", machine="cpu"))
    for source, score in (("quickstart/structure", 0.0), ("quickstart/ocr", 0.8)):
        assert compute_score(source, "I see. Answer: ABCDX", "ABCDE", {})["score"] == score


LABEL = re.compile(r"\[(V|F|prior|framework|ours)\]|DAPO|LIPO compares|as for LIPO|as in verl")
STRUCTURE = re.compile(
    r"\?\?\?|\$\{|^\s*(adv_estimator|n_gpus_per_node|strategy|name|path|project_name|log|enable):"
)
"""What is not a choice of a value: paths, references, and what a file is there for."""


@pytest.mark.parametrize(
    "path",
    sorted(CONFIG.parent.rglob("*.yaml")),
    ids=lambda path: str(path.relative_to(CONFIG.parent)),
)
def test_every_value_says_where_it_comes_from(path):
    """By a label on its line, or in the comment right above it or above its group."""
    assert yaml.safe_load(path.read_text())
    above, unlabelled, groups = "", [], []
    if "All\n# values [ours]" in path.read_text():
        return
    for line in path.read_text().splitlines():
        content, _, comment = line.partition("#")
        depth = len(content) - len(content.lstrip())
        if not content.strip():
            above = above + comment if comment else ""
            continue
        groups = [(d, text) for d, text in groups if d < depth]
        if content.rstrip().endswith(":"):
            groups.append((depth, above + comment))
        elif "defaults" not in line and not content.strip().startswith("- "):
            said = comment + above + "".join(text for _, text in groups)
            if not LABEL.search(said) and not STRUCTURE.search(content):
                unlabelled.append(line)
        above = ""
    assert unlabelled == []

"""LIPO in the trainers, engines and rollouts of verl that need GPUs: the trainer's own code
computes the advantages, and its own configuration is checked."""

import importlib
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch

verl = pytest.importorskip("verl")

import hydra  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.utils import config as verl_config  # noqa: E402

from lipo_verl import verl_plugin  # noqa: E402
from lipo_verl.batch import token_advantages  # noqa: E402
from lipo_verl.config import LipoConfig, LipoSetupError  # noqa: E402
from lipo_verl.metrics import lipo_metrics  # noqa: E402

pytestmark = pytest.mark.slow

USUAL = (
    "algorithm.adv_estimator=lipo",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.use_dynamic_bsz=true",
    "data.max_response_length=77",
)
PACKAGE = Path(verl.__path__[0])


@pytest.fixture(autouse=True)
def a_new_step():
    verl_plugin._run.groups.clear()


def compose(config, *overrides, folder=PACKAGE / "trainer" / "config"):
    with hydra.initialize_config_dir(str(folder), version_base=None):
        return hydra.compose(config, overrides=[*USUAL, *overrides])


@pytest.mark.parametrize("engine", ["dp", "megatron", "torchtitan", "veomni"])
@pytest.mark.parametrize("rollout", ["vllm", "sglang", "trtllm"])
def test_any_engine_and_any_rollout_is_checked_and_gets_its_budget(engine, rollout):
    overrides = f"model_engine={engine}", f"actor_rollout_ref.rollout.name={rollout}"
    config = compose("ppo_trainer", *overrides)
    verl_config.validate_config(config, use_reference_policy=False, use_critic=False)
    assert LipoConfig.parse(config.algorithm.lipo).response_budget == 77
    with pytest.raises(LipoSetupError, match="rollout.n=1"):
        verl_config.validate_config(
            compose("ppo_trainer", *overrides, "actor_rollout_ref.rollout.n=1"), False, False
        )


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_the_v1_trainers_call_the_estimator_with_the_columns_of_the_rollout(mode):
    from verl.trainer.ppo.v1 import get_trainer_cls

    compute = get_trainer_cls(mode)._compute_advantage
    assert inspect.unwrap(compute) is not compute


def batch(seed):
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(1, 17, 12))
    mask = (torch.arange(16) < lengths[:, None]).long()
    scores = torch.zeros(12, 16)
    scores[torch.arange(12), lengths - 1] = torch.from_numpy(rng.integers(0, 2, 12)).float()
    prompts = torch.ones(12, 4, dtype=torch.long)
    tensors = {
        "prompts": prompts,
        "responses": torch.ones_like(mask),
        "response_mask": mask,
        "attention_mask": torch.cat([prompts, mask], 1),
    }
    uids = np.array([f"uid-{k // 4}" for k in rng.permutation(12)], object)
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids}), scores


SEPARATE = {
    "verl.experimental.separation.ray_trainer:SeparateRayPPOTrainer": "ppo_trainer",
    "verl.experimental.fully_async_policy.fully_async_trainer:FullyAsyncTrainer": (
        "fully_async_ppo_trainer"
    ),
    "verl.experimental.one_step_off_policy.ray_trainer:OneStepOffRayTrainer": (
        "one_step_off_ppo_trainer"
    ),
}


@pytest.mark.parametrize("trainer", SEPARATE)
def test_trainers_with_separate_rollouts_compute_lipos_advantages(trainer, monkeypatch):
    monkeypatch.chdir(PACKAGE.parent)  # a search path of verl's is relative
    module, _, name = trainer.partition(":")
    module = importlib.import_module(module)
    cls = getattr(module, name)
    cls = getattr(cls, "__ray_metadata__", cls)
    cls = getattr(cls, "modified_class", cls)
    own = Path(module.__file__).parent / "config"
    folder = own if own.is_dir() else PACKAGE / "trainer" / "config"
    config = compose(SEPARATE[trainer], "+algorithm.lipo.scheme=kimi", folder=folder)
    verl_plugin._launch(config)

    trainer = object.__new__(cls)
    trainer.config, trainer.timing_raw, trainer.metrics = config, {}, {}
    trainer.use_critic, trainer.reward_extra_infos_dict = False, {"acc": [1.0] * 12}
    seen = []
    for step in range(2):
        data, trainer.reward_tensor = batch(step)
        data = trainer._fit_compute_advantage(data)
        expected, groups = token_advantages(
            trainer.reward_tensor,
            data.batch["response_mask"],
            data.non_tensor_batch["uid"],
            LipoConfig(scheme="kimi", response_budget=77),
            accuracy=np.ones(12),
        )
        assert torch.equal(data.batch["advantages"], expected)
        assert expected.abs().max() > 0.5
        seen += groups
    metrics = inspect.getmodule(cls._fit_collect_metrics).compute_data_metrics(data, False)
    assert {key: metrics[key] for key in lipo_metrics(seen)} == pytest.approx(lipo_metrics(seen))
    assert metrics["lipo/accuracy"] == 1

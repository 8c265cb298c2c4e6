"""LIPO inside the real verl: its registry, its trainer's calls, its configuration, Ray."""

import importlib
import importlib.util
import inspect
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

verl = pytest.importorskip("verl")

import cloudpickle  # noqa: E402
import hydra  # noqa: E402
from verl import DataProto  # noqa: E402
from verl.trainer.ppo import core_algos, metric_utils, ray_trainer  # noqa: E402
from verl.utils import config as verl_config  # noqa: E402

from lipo_verl import contract, verl_plugin  # noqa: E402
from lipo_verl.batch import Memory, estimate, token_advantages  # noqa: E402
from lipo_verl.config import LipoConfig, LipoConfigError, LipoSetupError  # noqa: E402
from lipo_verl.metrics import lipo_metrics  # noqa: E402
from lipo_verl.schemes import schemes  # noqa: E402
from lipo_verl.verl_plugin import check_launch, compute_lipo_advantage, last_outputs  # noqa: E402

GRPO = {"boost": 0.0, "weight_scale": math.inf}
"""LIPO without its length terms."""


@pytest.fixture(autouse=True)
def a_new_step():
    """No batch of another test waits for its metrics, no warning was given."""
    verl_plugin._run.groups.clear()
    verl_plugin._parts.clear()
    contract.warn_once.cache_clear()
    verl_plugin._refuse_other_verls.cache_clear()
    verl_plugin._parsed.clear()


def algorithm(**lipo):
    """verl's ``algorithm`` section."""
    return OmegaConf.create({"adv_estimator": "lipo", "lipo": lipo})


def random_batch(sizes, seed=0, binary=True, dtype=torch.float32, mask_dtype=torch.int64):
    """(token_level_rewards, response_mask, uids): shuffled groups, the score on the last token."""
    rng = np.random.default_rng(seed)
    uids = np.array([f"uid-{g}" for g, size in enumerate(sizes) for _ in range(size)], object)
    rng.shuffle(uids)
    lengths = rng.integers(1, 33, len(uids))
    scores = rng.integers(0, 2, len(uids)) if binary else rng.random(len(uids))
    rewards = torch.zeros(len(uids), 32, dtype=dtype)
    rewards[torch.arange(len(uids)), torch.from_numpy(lengths - 1)] = torch.tensor(scores).to(dtype)
    mask = torch.arange(32)[None, :] < torch.from_numpy(lengths)[:, None]
    return rewards, mask.to(mask_dtype), uids


def proto(rewards, mask, uids):
    """The batch as verl's trainer holds it."""
    prompts = torch.ones(len(uids), 4, dtype=torch.int64)
    tensors = {
        "prompts": prompts,
        "responses": torch.ones_like(mask),
        "response_mask": mask,
        "attention_mask": torch.cat([prompts, mask], 1),
        "token_level_scores": rewards,
        "token_level_rewards": rewards,
    }
    return DataProto.from_dict(tensors=tensors, non_tensors={"uid": uids})


USUAL = (
    "algorithm.adv_estimator=lipo",
    "actor_rollout_ref.rollout.n=4",
    "actor_rollout_ref.actor.use_dynamic_bsz=true",
)


def ppo_config(*overrides):
    """The configuration that verl's PPO trainer would start with."""
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose(config_name="ppo_trainer", overrides=[*USUAL, *overrides])


def start(config, program=lambda config: None):
    """Starts a Hydra program, as every entry point of verl's is one."""
    hydra.main(version_base=None)(program)(config)


def validate(config):
    """verl's own check of a launch, from 0.6 on."""
    if hasattr(verl_config, "validate_config"):
        verl_config.validate_config(config, use_reference_policy=False, use_critic=False)


STARTS = [start, validate] if hasattr(verl_config, "validate_config") else [start]
"""What checks a launch in this verl."""

validates = pytest.mark.skipif(validate not in STARTS, reason="verl 0.5 has no validate_config")


def module_of(*names):
    """The first of these modules that this verl has; the test is skipped where it has none."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if not name.startswith(error.name):
                raise
    pytest.skip(f"verl {verl.__version__} has no {' or '.join(names)}")


@pytest.fixture
def trainer_of_sessions():
    """The module of the trainer whose agents may give several outputs per session."""
    return module_of("verl.trainer.ppo.v1.trainer_base", "verl.trainer.main_ppo_sync")


# Registration


def test_importing_verl_registers_lipo():
    assert core_algos.get_adv_estimator_fn("lipo") is compute_lipo_advantage


@pytest.mark.slow
def test_lipo_is_there_whatever_plug_ins_verl_is_told_to_load():
    code = (
        "from lipo_verl import hook; hook.install()\n"
        "from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY; "
        "print(ADV_ESTIMATOR_REGISTRY['lipo'].__module__)"
    )
    env = os.environ | {"VERL_USE_EXTERNAL_PLUGINS": "none"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "lipo_verl.verl_plugin\n", done.stderr


def test_registering_again_changes_nothing():
    def patched():
        trainers = [
            sys.modules.get(f"verl.trainer.{name}")
            for name in ("ppo.v1.trainer_base", "main_ppo_sync")
        ]
        return [
            hydra.main,
            getattr(verl_config, "validate_config", None),
            metric_utils.compute_data_metrics,
            ray_trainer.compute_advantage,
            ray_trainer.RayPPOTrainer.__init__,
            *(vars(trainer).copy() for trainer in trainers if trainer),
        ]

    before = patched()
    verl_plugin._register()
    assert patched() == before
    assert core_algos.get_adv_estimator_fn("lipo") is compute_lipo_advantage
    data = ray_trainer.compute_advantage(proto(*random_batch([4, 4])), "lipo", config=algorithm())
    seen = metric_utils.compute_data_metrics(data, use_critic=False)
    assert seen["lipo/groups_of_one"] == 0


def test_a_tested_version_starts_without_a_word(caplog, capsys):
    for check in STARTS:
        check(ppo_config())
    assert not caplog.records
    assert "LIPO is live" not in capsys.readouterr().out
    assert not verl_plugin._groups and not verl_plugin._parts and not verl_plugin._parsed


@pytest.mark.slow
def test_an_unknown_version_in_which_lipo_works_is_warned_of_once(monkeypatch, caplog):
    monkeypatch.setattr(verl, "__version__", "0.99.0")
    for check in STARTS * 2:
        check(ppo_config())
    (record,) = caplog.records
    assert "was tested with verl 0.5.0 to" in record.getMessage()
    assert "this is verl 0.99.0" in record.getMessage()


def refused(text):
    """LIPO is refused in this verl, wherever a launch is checked, and GRPO is not."""
    for check in STARTS:
        with pytest.raises(LipoSetupError, match=text):
            check(ppo_config())
        check(ppo_config("algorithm.adv_estimator=grpo"))


@pytest.mark.slow
def test_a_verl_that_calls_estimators_otherwise_is_refused(monkeypatch):
    def renamed(data, adv_estimator, **settings):
        core_algos.get_adv_estimator_fn(adv_estimator)(rewards=data.batch["token_level_rewards"])

    monkeypatch.setattr(ray_trainer, "compute_advantage", renamed)
    refused(r"which fails in compute_advantage \(TypeError: .*rewards.*tested with verl 0\.5\.0")


@pytest.mark.slow
def test_a_verl_that_changes_what_estimators_get_or_give_is_refused(monkeypatch):
    compute_advantage = ray_trainer.compute_advantage

    def whitened(data, *args, **kwargs):
        data = compute_advantage(data, *args, **kwargs)
        data.batch["advantages"] = data.batch["advantages"] * 1.01
        return data

    monkeypatch.setattr(ray_trainer, "compute_advantage", whitened)
    refused("which makes other advantages of lipo than it computes itself")


@pytest.fixture
def nothing_lacks(monkeypatch):
    monkeypatch.setattr(verl_plugin, "_lacking", [])


@pytest.mark.slow
def test_a_verl_without_a_registry_is_refused(nothing_lacks):
    """As 0.3 is."""
    verl_plugin._add_estimator(ModuleType("core_algos"))
    refused("has no core_algos.register_adv_est; which has no core_algos.ADV_ESTIMATOR_REGISTRY")


@pytest.mark.slow
def test_a_verl_that_counts_the_tokens_of_tools_is_refused(nothing_lacks):
    """As 0.4 is."""
    module = ModuleType("ray_trainer")
    module.compute_advantage = lambda data, adv_estimator, multi_turn=False: data
    verl_plugin._patch_ray_trainer(module)
    refused("which hands estimators other than its own the tokens of tools as well")


@pytest.mark.slow
def test_a_verl_without_compute_advantage_is_refused(nothing_lacks):
    verl_plugin._patch_ray_trainer(ModuleType("ray_trainer"))
    refused("which has no ray_trainer.compute_advantage")


def test_a_trainer_that_refuses_unknown_estimators_takes_lipo(nothing_lacks):
    """As 0.5's does."""

    class RayPPOTrainer:
        def __init__(self, config):
            if config.algorithm.adv_estimator != "grpo":
                raise NotImplementedError
            self.config = config

    module = ModuleType("ray_trainer")
    module.compute_advantage, module.RayPPOTrainer = ray_trainer.compute_advantage, RayPPOTrainer
    verl_plugin._patch_ray_trainer(module)
    made = RayPPOTrainer(config=OmegaConf.create({"algorithm": algorithm()}))
    assert made.config.algorithm.adv_estimator == "lipo"
    unknown = OmegaConf.create({"algorithm": {"adv_estimator": "unknown"}})
    with pytest.raises(NotImplementedError):
        RayPPOTrainer(unknown)
    assert unknown.algorithm.adv_estimator == "unknown"


@pytest.mark.slow
def test_another_estimator_of_the_name_is_left_alone_and_named(nothing_lacks, monkeypatch):
    def other(): ...

    monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, "lipo", other)
    verl_plugin._add_estimator(core_algos)
    assert core_algos.ADV_ESTIMATOR_REGISTRY["lipo"] is other
    refused(f"which has another estimator named lipo, {__name__}.{other.__qualname__}")


def test_modules_that_lack_what_is_wrapped_are_imported_as_they_are():
    for name in ("hydra", "config", "metric_utils", "trainer_base", "replay_buffer"):
        module = ModuleType(name)
        before = vars(module).copy()
        verl_plugin._wrap(module, "main", verl_plugin._main_with_start)
        verl_plugin._narrow_sessions(module)
        verl_plugin.stop.watch(module)
        assert vars(module) == before


# The estimator


@pytest.mark.parametrize("sizes", [[8] * 6, [2, 5, 3, 9, 2, 16, 4]])
@pytest.mark.parametrize(("binary", "dtype"), [(True, torch.float32), (False, torch.float64)])
@pytest.mark.parametrize("seed", range(20))
def test_without_length_terms_equals_verls_grpo(monkeypatch, sizes, binary, dtype, seed):
    rewards, mask, uids = random_batch(sizes, seed, binary, dtype)
    expected, _ = core_algos.compute_grpo_outcome_advantage(rewards, mask, uids)
    assert expected.abs().max() > 0.5

    def refuse(*args, **kwargs):
        raise AssertionError("LIPO called verl's GRPO")

    monkeypatch.setattr(core_algos, "compute_grpo_outcome_advantage", refuse)
    for name in core_algos.ADV_ESTIMATOR_REGISTRY.keys() - {"lipo"}:
        monkeypatch.setitem(core_algos.ADV_ESTIMATOR_REGISTRY, name, refuse)
    data = proto(rewards, mask, uids)
    data = ray_trainer.compute_advantage(data, "lipo", config=algorithm(**GRPO))
    assert data.batch["advantages"].dtype == dtype
    torch.testing.assert_close(data.batch["advantages"], expected, rtol=0, atol=1e-6)
    assert torch.equal(data.batch["returns"], data.batch["advantages"])


def test_trainers_call_hands_over_scores_lengths_and_settings():
    rewards, mask, uids = random_batch([4, 6, 2], binary=False)
    settings = {"boost": 1.0, "decay": "cosine", "weight_advantage": True}
    data = ray_trainer.compute_advantage(
        proto(rewards, mask, uids), "lipo", config=algorithm(**settings)
    )
    expected, _ = token_advantages(rewards, mask, uids, LipoConfig(**settings))
    assert torch.equal(data.batch["advantages"], expected)
    plain = ray_trainer.compute_advantage(proto(rewards, mask, uids), "lipo", config=algorithm())
    assert not torch.allclose(plain.batch["advantages"], data.batch["advantages"], atol=1e-3)


def test_section_may_be_absent():
    rewards, mask, uids = random_batch([4, 4])
    bare, _ = compute_lipo_advantage(rewards, mask, uids, OmegaConf.create({}))
    assert torch.equal(bare, compute_lipo_advantage(rewards, mask, uids, algorithm())[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mask_dtype", [torch.int64, torch.int32, torch.bool, torch.float32])
def test_masks_of_any_type(dtype, mask_dtype):
    rewards, mask, uids = random_batch([4, 4], dtype=dtype)
    expected, _ = compute_lipo_advantage(rewards, mask, uids, algorithm())
    advantages, returns = compute_lipo_advantage(rewards, mask.to(mask_dtype), uids, algorithm())
    assert advantages.dtype == returns.dtype == dtype
    assert torch.equal(advantages, expected)
    assert (advantages[mask == 0] == 0).all() and (advantages[mask == 1] != 0).any()


def test_tokens_of_the_environment_do_not_count_as_length():
    rewards, mask, uids = random_batch([4])
    holed = mask.clone()
    holed[:, 1:5] = 0
    advantages, _ = compute_lipo_advantage(rewards, holed, uids, algorithm())
    none = np.zeros(len(uids), bool)
    expected, _ = estimate(rewards.sum(1).numpy(), holed.sum(1).numpy(), none, uids, LipoConfig())
    expected = torch.from_numpy(expected).float()
    assert torch.equal(advantages, expected[:, None] * holed)


def test_response_without_peers_gets_zero():
    rewards, mask, uids = random_batch([1, 1, 4], seed=3)
    advantages, _ = compute_lipo_advantage(rewards, mask, uids, algorithm())
    alone = np.isin(uids, ["uid-0", "uid-1"])
    assert (advantages[alone] == 0).all()
    assert (advantages[~alone] != 0).any()


def groups_of(data, **lipo):
    """The groups that LIPO sees where verl's trainer computes the advantages of a batch."""
    verl_plugin._run.groups.clear()
    ray_trainer.compute_advantage(data, "lipo", config=algorithm(**lipo))
    return [*verl_plugin._run.groups]


@pytest.mark.parametrize("name", ["acc", "accuracy"])
@pytest.mark.parametrize("said", [True, False], ids=["named by verl", "found by name"])
def test_correct_is_what_the_rewards_accuracy_says(name, said):
    rewards, mask, uids = random_batch([4])
    data = proto(rewards * 0 + mask * 0.5 / mask.sum(1, keepdim=True), mask, uids)
    data.non_tensor_batch[name] = np.array([1.0, 0.0, 0.0, 1.0])
    if said:
        data.meta_info["reward_extra_keys"] = [name]
    (group,) = groups_of(data)
    assert group.rewards.tolist() == [pytest.approx([0.5] * 4)]
    assert np.array_equal(group.correct, data.non_tensor_batch[name][group.rows] == 1)
    assert not group.result.boosted[~group.correct].any()


def test_a_column_of_the_data_set_is_no_accuracy_of_the_reward():
    data = proto(*random_batch([4]))
    data.non_tensor_batch["acc"] = np.zeros(4)
    data.meta_info["reward_extra_keys"] = ["score"]
    (group,) = groups_of(data)
    assert np.array_equal(group.correct, group.rewards >= 0.5)


def test_tokens_of_tools_count_against_the_budget_and_finish_reasons_win():
    rewards, mask, uids = random_batch([4])
    mask[:] = 0
    mask[:, :10] = 1
    data = proto(rewards, mask, uids)
    data.batch["attention_mask"][:] = 1
    data.batch["attention_mask"][0, 4 + 31 :] = 0  # 31 of 32 tokens, the others end in a tool's

    def truncated():
        (group,) = groups_of(data, response_budget=32)
        return group.truncated[0, group.rows[0].argsort()].tolist()

    assert truncated() == [False, True, True, True]
    data.non_tensor_batch["finish_reason"] = np.array(["length", "stop", None, "abort"], object)
    assert truncated() == [True, False, True, True]


def test_integer_rewards_give_the_advantages_of_floats():
    rewards, mask, uids = random_batch([4, 6])
    expected, _ = compute_lipo_advantage(rewards, mask, uids, algorithm())
    advantages, _ = compute_lipo_advantage(rewards.long(), mask, uids, algorithm())
    assert torch.equal(advantages, expected)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"config": None}, r"Pass config=config\.algorithm"),
        ({"index": None}, r"Set data\.non_tensor_batch\[\"uid\"\]"),
    ],
)
def test_a_call_without_settings_or_uids_says_what_is_missing(given, text):
    rewards, mask, uids = random_batch([4])
    with pytest.raises(LipoSetupError, match=text):
        compute_lipo_advantage(rewards, mask, **({"index": uids, "config": algorithm()} | given))


def test_score_that_is_not_a_number_is_named():
    rewards, mask, uids = random_batch([2, 2])
    rewards[2, 0] = math.nan
    with pytest.raises(ValueError, match=f"uid '{uids[2]}' .* is nan"):
        compute_lipo_advantage(rewards, mask, uids, algorithm())


def test_inputs_are_left_as_they_were_and_no_gradient_is_kept():
    rewards, mask, uids = random_batch([4, 4])
    rewards.requires_grad_()
    before = rewards.detach().clone()
    advantages, _ = compute_lipo_advantage(rewards, mask, uids, algorithm())
    assert torch.equal(rewards, before)
    assert not advantages.requires_grad


def test_settings_are_announced_when_they_are_read_first(capsys):
    rewards, mask, uids = random_batch([4])
    for section in (algorithm(boost=0.11), algorithm(boost=0.12)):
        for _ in range(2):
            compute_lipo_advantage(rewards, mask, uids, section)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("boost=")[1].split()[0] for line in lines] == ["0.11", "0.12"]
    assert lines[0].startswith("LIPO is live in process ")


# The launch


@pytest.mark.parametrize(
    ("override", "error", "text"),
    [
        (
            "actor_rollout_ref.rollout.n=1",
            LipoSetupError,
            r"actor_rollout_ref\.rollout\.n=1\. Set it to 2 or more",
        ),
        (
            "algorithm.use_kl_in_reward=true",
            LipoSetupError,
            r"Set algorithm\.use_kl_in_reward=False, and actor_rollout_ref\.actor\.use_kl_loss",
        ),
        (
            "++algorithm.rollout_correction.rollout_rs=token_k1",
            LipoSetupError,
            r"rollout_rs=token_k1 empties the mask .* Set it to null",
        ),
        (
            "++algorithm.rollout_correction.rollout_token_veto_threshold=1e-4",
            LipoSetupError,
            r"rollout_token_veto_threshold=0\.0001 empties the mask",
        ),
        ("+algorithm.lipo.bost=0.2", LipoConfigError, r"Did you mean algorithm\.lipo\.boost\?"),
        ("+algorithm.lipo.pairing=next", LipoConfigError, r"'next'.*'all' or 'adjacent'"),
    ],
)
def test_impossible_launch_is_refused_wherever_verl_starts(override, error, text):
    config = ppo_config(override)
    with pytest.raises(error, match=text):
        check_launch(config)
    for check in STARTS:
        with pytest.raises(error, match=text):
            check(config)
    with pytest.raises(error, match=text):
        compute_lipo_advantage(*random_batch([4]), config.algorithm)


ENTRY_POINTS = {
    "verl.trainer.main_ppo": "ppo_trainer",
    "verl.trainer.main_ppo_sync": "ppo_trainer",
    "verl.experimental.fully_async_policy.fully_async_main": "fully_async_ppo_trainer",
    "verl.experimental.one_step_off_policy.main_ppo": "one_step_off_ppo_trainer",
}


@pytest.mark.slow
@pytest.mark.parametrize("module", ENTRY_POINTS)
def test_every_entry_point_checks_and_hands_over_the_budget_before_ray_starts(module, monkeypatch):
    from verl.trainer import main_ppo

    started = []
    monkeypatch.chdir(Path(verl.__path__[0]).parent)  # a search path of verl's is relative
    entry = module_of(module)
    for program in main_ppo, entry:
        monkeypatch.setattr(
            program, "run_ppo", lambda config, **_: started.append(config), raising=False
        )
    configs = str(Path(entry.__file__).parent / "config")

    def launch(*overrides):
        with hydra.initialize_config_dir(configs, version_base=None):
            config = hydra.compose(ENTRY_POINTS[module], overrides=[*USUAL, *overrides])
        entry.main.__wrapped__(config)

    with pytest.raises(LipoConfigError, match="Did you mean algorithm.lipo.boost"):
        launch("+algorithm.lipo.bosst=0.1")
    with pytest.raises(LipoSetupError, match="rollout.n=1"):
        launch("actor_rollout_ref.rollout.n=1")
    assert not started
    launch("data.max_response_length=77")
    assert started[0].algorithm.lipo.response_budget == 77


@pytest.mark.slow
@pytest.mark.parametrize("program", ["verl.trainer.main_ppo", "verl.trainer.main_ppo_sync"])
def test_the_command_refuses_a_wrong_launch_before_ray_starts(program, tmp_path):
    if importlib.util.find_spec(program) is None:
        pytest.skip(f"verl {verl.__version__} has no {program}")
    command = [sys.executable, "-m", program, *USUAL, "actor_rollout_ref.rollout.n=1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "LipoSetupError: LIPO compares the responses to one prompt, but" in done.stderr
    assert "Started a local Ray instance" not in done.stdout + done.stderr


def test_the_first_advantage_makes_up_for_a_check_that_nobody_called(caplog):
    rewards, mask, uids = random_batch([4, 4, 4])
    longest = mask.sum(1).max()
    config = ppo_config(
        f"data.max_response_length={longest}", "algorithm.norm_adv_by_std_in_grpo=False"
    )
    compute_lipo_advantage(rewards, mask, uids, config.algorithm)
    (group,) = verl_plugin._run.groups
    assert np.array_equal(group.truncated, (mask.sum(1) == longest).numpy()[group.rows])
    assert "algorithm.norm_adv_by_std_in_grpo=False is not read by LIPO" in caplog.text


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("algorithm.norm_adv_by_std_in_grpo=False", "norm_adv_by_std_in_grpo=False is not read"),
        (
            "++algorithm.filter_groups={enable: true, metric: acc}",
            "filter_groups.enable=True drops the groups that are all right",
        ),
        ("++algorithm.gdpo_reward_keys=[acc]", "gdpo_reward_keys is not read by LIPO"),
    ],
)
def test_settings_that_do_nothing_under_lipo_or_undo_it_are_named_once(override, text, caplog):
    config = ppo_config(override)
    for check in STARTS * 2:
        check(config)
    assert [text in record.message for record in caplog.records] == [True]


def test_programs_of_verls_without_an_estimator_start_as_before(caplog):
    ran = []
    for config in ({"actor_rollout_ref": 1}, {"algorithm": "sorting"}, {}, None):
        config = None if config is None else OmegaConf.create(config)
        verl_plugin._main_with_start(lambda: lambda program: program)()(ran.append)(config)
    assert len(ran) == 4 and not caplog.records


def test_rejection_in_the_loss_is_no_reason_to_refuse():
    rejection = "++algorithm.rollout_correction.rollout_rs=token_k1"
    check_launch(ppo_config(rejection, "++algorithm.rollout_correction.bypass_mode=true"))


@validates
def test_trainer_uses_the_wrapped_check():
    from verl.trainer import main_ppo

    assert main_ppo.validate_config is verl_config.validate_config
    assert main_ppo.validate_config.__wrapped__.__module__ == "verl.utils.config"


@validates
def test_good_launch_passes_lipos_and_verls_checks(capsys):
    config = ppo_config("+algorithm.lipo.weight_scale=inf", "+algorithm.lipo.boost=0.2")
    validate(config)
    assert "checks passed" in capsys.readouterr().out
    assert LipoConfig.parse(config.algorithm.lipo).weight_scale == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("check", STARTS)
def test_estimator_learns_the_response_budget_unless_the_user_sets_it(check):
    config = ppo_config("data.max_response_length=77")
    check(config)
    assert LipoConfig.parse(config.algorithm.lipo) == LipoConfig(response_budget=77)
    config = ppo_config("+algorithm.lipo.response_budget=50", "+algorithm.lipo.boost=0.2")
    check(config)
    assert LipoConfig.parse(config.algorithm.lipo) == LipoConfig(response_budget=50, boost=0.2)


@validates
def test_verls_own_check_still_runs_after_lipos():
    config = ppo_config("actor_rollout_ref.actor.use_dynamic_bsz=false")
    with pytest.raises(Exception, match="ppo_micro_batch_size"):
        validate(config)


@pytest.mark.slow
def test_other_estimators_launch_as_before_and_are_told_of_unread_settings(caplog):
    overrides = ("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=1")
    for check in STARTS:
        check(ppo_config(*overrides))
    assert not caplog.records
    for check in STARTS:
        check(ppo_config(*overrides, "+algorithm.lipo.boost=1"))
    assert "algorithm.adv_estimator=grpo does not read it" in caplog.text


# The metrics


def test_metrics_follow_an_estimate_and_nothing_else():
    data = ray_trainer.compute_advantage(
        proto(*random_batch([4, 4, 1])), "lipo", config=algorithm()
    )
    first = ray_trainer.compute_data_metrics(data, use_critic=False)
    second = ray_trainer.compute_data_metrics(data, use_critic=False)
    mine = {key for key in first if key.startswith("lipo/")}
    assert first["lipo/groups_of_one"] == 1
    assert {"lipo/boosted", "lipo/sign_flips", "lipo/optimum_length"} <= mine
    assert "critic/score/mean" in second
    assert second.keys() == first.keys() - mine
    verls = ray_trainer.compute_data_metrics.__wrapped__(data, use_critic=False)
    assert second == verls


def test_metrics_cover_all_batches_since_they_were_taken_last():
    batches = [random_batch(sizes, seed) for seed, sizes in enumerate(([1, 1, 4], [1, 3], [4, 4]))]
    done = [
        ray_trainer.compute_advantage(proto(*batch), "lipo", config=algorithm())
        for batch in batches
    ]
    whole = DataProto.concat(done)
    metrics = metric_utils.compute_data_metrics(whole, use_critic=False)
    compared = [np.isin(uids, [u for u in uids if sum(uids == u) > 1]) for _, _, uids in batches]
    lengths = [mask.sum(1)[rows] for (_, mask, _), rows in zip(batches, compared, strict=True)]
    right = [rewards.sum(1)[rows] for (rewards, *_), rows in zip(batches, compared, strict=True)]
    assert metrics["lipo/groups_of_one"] == 3
    assert metrics["lipo/length"] == pytest.approx(torch.cat(lengths).float().mean().item())
    assert metrics["lipo/accuracy"] == pytest.approx(torch.cat(right).mean().item())


@pytest.mark.parametrize("estimator", ["lipo", "grpo"])
def test_the_parts_of_the_reward_are_logged_in_training_with_any_estimator(estimator):
    parts = {
        "acc": np.array([1.0, 0.0, 0.0, 1.0]),
        "answer_found": np.array([True, True, False, True]),
        "reward_error": np.array([0, 1, None, 0], object),
        "pred": np.array(["4", "5", None, "4"], object),
        "of_each_step": np.ones((4, 2)),
    }
    done = []
    for seed in range(2):
        data = proto(*random_batch([4], seed))
        data.non_tensor_batch |= parts | {"difficulty": np.ones(4)}
        data.meta_info["reward_extra_keys"] = [*parts]
        done.append(ray_trainer.compute_advantage(data, estimator, config=algorithm()))
    metrics = metric_utils.compute_data_metrics(DataProto.concat(done), use_critic=False)
    assert {key: value for key, value in metrics.items() if key.startswith("reward/")} == {
        "reward/acc": 0.5,
        "reward/answer_found": 0.75,
        "reward/reward_error": pytest.approx(1 / 3),
    }
    assert ("lipo/accuracy" in metrics) == (estimator == "lipo")
    assert not any(
        key.startswith("reward/")
        for key in metric_utils.compute_data_metrics(done[0], use_critic=False)
    )


@pytest.mark.slow
def test_metrics_reach_console_file_tensorboard_and_wandb(monkeypatch, tmp_path, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from verl.utils.tracking import Tracking

    monkeypatch.setenv("VERL_FILE_LOGGER_PATH", str(tmp_path / "log.jsonl"))
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "tensorboard"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    data = proto(*random_batch([4, 4, 4]))
    data = ray_trainer.compute_advantage(data, "lipo", config=algorithm())
    metrics = metric_utils.compute_data_metrics(data, use_critic=False)
    mine = {key: value for key, value in metrics.items() if key.startswith("lipo/")}
    assert len(mine) >= 20

    has_file = "file" in Tracking.supported_backend  # from 0.6 on
    tracking = Tracking("project", "run", ["console", "tensorboard", "wandb"] + ["file"] * has_file)
    tracking.log(metrics, step=3)
    tracking.finish() if hasattr(tracking, "finish") else tracking.__del__()
    assert "lipo/sign_flips:" in capsys.readouterr().out
    if has_file:
        (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
        assert json.loads(line)["data"].items() >= mine.items()
    (wandb_file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + 60  # wandb writes from a process of its own
    while not all(key.encode() in wandb_file.read_bytes() for key in mine):
        assert time.monotonic() < deadline, "wandb has not written the metrics"
        time.sleep(0.2)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for key, value in mine.items():
        (event,) = events.Scalars(key)
        assert (event.step, event.value) == (3, pytest.approx(value))


# Agents of several outputs


def sessions(rng, groups=4, n=3, most=3):
    """(token_level_rewards, response_mask, uids, batch keys): each session gave 1 to ``most``
    outputs, in a shuffled batch."""
    keys = [
        f"uid_{g}_{s}_{output}"
        for g in range(groups)
        for s in range(n)
        for output in range(rng.integers(1, most + 1))
    ]
    rng.shuffle(keys)
    lengths = rng.integers(1, 33, len(keys))
    rewards = torch.zeros(len(keys), 32)
    rewards[torch.arange(len(keys)), torch.from_numpy(lengths - 1)] = torch.from_numpy(
        rng.integers(0, 2, len(keys))
    ).float()
    mask = (torch.arange(32)[None, :] < torch.from_numpy(lengths)[:, None]).long()
    return rewards, mask, np.array([key.rsplit("_", 2)[0] for key in keys], object), keys


def test_the_last_output_of_a_session_is_found_by_number_not_by_text():
    rows, places = last_outputs(["a_0_9", "a_0_10", "b_1_0", "a_0_2"])
    assert sorted(rows) == [1, 2]
    assert [rows[place] for place in places] == [1, 1, 2, 1]


@pytest.mark.parametrize("seed", range(4))
def test_without_length_terms_sessions_get_what_verls_grpo_gives_them(seed, trainer_of_sessions):
    rewards, mask, uids, keys = sessions(np.random.default_rng(seed))
    seen = {}
    for name in ("grpo", "lipo"):
        data = trainer_of_sessions.compute_advantage_for_multi_trajectories(
            proto(rewards.clone(), mask, uids), keys, name, config=algorithm(**GRPO)
        )
        seen[name] = data.batch["advantages"]
        assert torch.equal(data.batch["returns"], seen[name])
    assert seen["grpo"].abs().max() > 0.5
    torch.testing.assert_close(seen["lipo"], seen["grpo"], rtol=0, atol=1e-6)


def test_a_session_is_as_long_as_all_that_it_generated_and_cut_where_an_output_is(
    trainer_of_sessions,
):
    rewards, mask, uids, keys = sessions(np.random.default_rng(7))
    settings = {"response_budget": 30, "std_floor": 0.1}
    trainer_of_sessions.compute_advantage_for_multi_trajectories(
        proto(rewards, mask, uids), keys, "lipo", config=algorithm(**settings)
    )
    (group,) = verl_plugin._run.groups
    rows, places = last_outputs(keys)
    of_session = [[] for _ in rows]
    for place, tokens in zip(places, mask.sum(1).tolist(), strict=True):
        of_session[place].append(tokens)
    assert max(map(len, of_session)) > 1
    assert group.lengths.tolist() == [[sum(of_session[row]) for row in of] for of in group.rows]
    cut = [[max(of_session[row]) >= 30 for row in of] for of in group.rows]
    assert group.truncated.tolist() == cut
    assert group.truncated.any() and not group.truncated.all()


def test_only_last_outputs_are_compared_and_all_outputs_get_their_sessions_advantage(
    trainer_of_sessions,
):
    rewards, mask, uids, keys = sessions(np.random.default_rng(7))
    data = trainer_of_sessions.compute_advantage_for_multi_trajectories(
        proto(rewards, mask, uids), batch_keys=keys, adv_estimator="lipo", config=algorithm()
    )
    rows, places = last_outputs(keys)
    assert len(rows) < len(keys)
    lengths = np.bincount(places, mask.sum(1).numpy())
    expected, _ = token_advantages(
        rewards[rows], mask[rows], uids[rows], LipoConfig(), lengths=lengths
    )
    expected = torch.where(mask[rows] > 0, expected, -torch.inf).amax(1)
    assert torch.equal(data.batch["advantages"], expected[places][:, None] * mask)


RUN_AS_A_PROGRAM = """
import runpy, sys
import ray.cloudpickle
from verl.trainer import main_ppo

def run_ppo(config, task_runner_class):
    task = task_runner_class.__ray_metadata__.modified_class
    sys.stdout.buffer.write(b"PICKLE" + ray.cloudpickle.dumps(task))

main_ppo.run_ppo = run_ppo
sys.argv[0] = "main_ppo_sync.py"
runpy.run_module("verl.trainer.main_ppo_sync", run_name="__main__", alter_sys=True)
"""


def test_the_program_of_0_8_takes_its_patches_along_into_ray(tmp_path):
    module_of("verl.trainer.main_ppo_sync")
    command = [sys.executable, "-c", RUN_AS_A_PROGRAM, *USUAL]
    done = subprocess.run(command, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    task = cloudpickle.loads(done.stdout.partition(b"PICKLE")[2])
    trainer = inspect.unwrap(task.run).__globals__["PPOTrainer"]
    compute = trainer._compute_advantage.__wrapped__.__globals__
    compute = compute["compute_advantage_for_multi_trajectories"]
    rewards, mask, uids, keys = sessions(np.random.default_rng(7))
    seen = [
        compute(proto(rewards.clone(), mask, uids), keys, name, config=algorithm(**GRPO))
        for name in ("grpo", "lipo")
    ]
    grpo, lipo = (data.batch["advantages"] for data in seen)
    torch.testing.assert_close(lipo, grpo, rtol=0, atol=1e-6)


@pytest.fixture
def v1_advantages(monkeypatch, trainer_of_sessions):
    """The v1 trainer's own ``_compute_advantage``, on rows that a fake TransferQueue holds."""
    import transfer_queue
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    def compute(rows, estimator="lipo", **rollout):
        uids, written = ["u", "u", "u", "v", "v", "v"], []
        keys = [f"{uid}_{row}_0" for row, uid in enumerate(uids)]
        tags = [{"is_padding": True} if row is None else row.pop("tag") for row in rows]
        held = [
            {"uid": uid, "extra_fields": {}, "response_mask": torch.zeros(1, dtype=torch.int64)}
            | (row or {})
            for uid, row in zip(uids, rows, strict=True)
        ]
        for row in held:
            row["rm_scores"] = torch.zeros(len(row["response_mask"]))
            row["rm_scores"][-1] = row.pop("score", 0.0)

        def get(keys, partition_id, select_fields):
            chosen = [held[int(key.split("_")[1])] for key in keys]
            chosen = [{k: row[k] for k in select_fields if k in row} for row in chosen]
            return list_of_dict_to_tensordict(chosen)

        monkeypatch.setattr(transfer_queue, "kv_batch_get", get)
        monkeypatch.setattr(transfer_queue, "kv_batch_put", lambda **put: written.append(put))
        config = ppo_config(
            f"algorithm.adv_estimator={estimator}",
            *(f"actor_rollout_ref.rollout.{key}={value}" for key, value in rollout.items()),
        )
        batch = transfer_queue.KVBatchMeta(keys=keys, tags=tags, partition_id="train")
        trainer_of_sessions.PPOTrainer._compute_advantage(SimpleNamespace(config=config), batch, {})
        return written[0]["fields"]["advantages"]

    return compute


def v1_row(length, score=0.5, accuracy=None, prompt=4, **extra):
    """What the v1 trainer's agent loop puts into the TransferQueue for one response."""
    parts = {} if accuracy is None else {"acc": accuracy, "answer_found": 1.0, "pred": "x"}
    return {
        "score": score,
        "response_mask": torch.ones(length, dtype=torch.int64),
        "extra_fields": {"reward_extra_info": parts, "turn_scores": []} | extra,
        "tag": {"response_len": length, "seq_len": prompt + length},
    }


@pytest.mark.slow
def test_the_v1_trainer_brings_accuracy_and_logs_the_parts_of_the_reward(v1_advantages):
    def rows():
        accuracies = (1.0, 0.0, 1.0, 0, True)
        rows = [v1_row(k + 3, accuracy=acc) for k, acc in enumerate(accuracies)]
        return [*rows, None]  # the last is padding

    v1_advantages(rows())
    (group,) = verl_plugin._run.groups
    assert group.correct.tolist() == [[True, False, True], [False, True, False]]
    assert group.result.boosted.tolist() == [[True, False, False], [False, False, False]]
    for estimator in "lipo", "grpo":
        verl_plugin._parts.clear()
        v1_advantages(rows(), estimator)
        data = ray_trainer.compute_advantage(proto(*random_batch([2])), "grpo", config={})
        metrics = metric_utils.compute_data_metrics(data, use_critic=False)
        assert metrics["reward/acc"] == pytest.approx(3 / 5)
        assert metrics["reward/answer_found"] == 1
        assert "reward/pred" not in metrics
    assert not verl_plugin._columns


def test_a_v1_trainer_whose_rollout_tells_nothing_goes_on_without(v1_advantages, caplog):
    rows = [v1_row(k + 3, score=k % 2) for k in range(6)]
    for row in rows:
        row["extra_fields"] = None
    assert v1_advantages(rows).numel() > 0
    assert caplog.text.count("neither the reward's parts nor cut responses are known") == 1
    assert verl_plugin._groups and not verl_plugin._columns


def test_the_v1_trainer_knows_what_each_limit_of_verls_cut(v1_advantages):
    def truncated(*rows):
        v1_advantages([*rows], prompt_length=16, response_length=20, max_model_len=30)
        (group,) = verl_plugin._run.groups
        return group.truncated.ravel().tolist()

    cut_short = v1_row(14, prompt=16)  # max_model_len
    tool_last = v1_row(20)
    tool_last["response_mask"][10:] = 0  # the budget ends in a tool's tokens
    told = v1_row(9, finish_reason="length"), v1_row(20, stop_reason="stop")
    rows = cut_short, tool_last, v1_row(19), *told, v1_row(9, stop_reason="completed")
    assert truncated(*rows) == [True, True, False, True, False, False]


# Ray


@pytest.mark.real_stack
def test_ray_actor_that_imports_verl_has_lipo_and_says_so():
    import ray

    ray.init(num_cpus=2, include_dashboard=False)
    try:

        @ray.remote
        class Worker:
            def look(self, rewards, mask, uids):
                import contextlib
                import io
                import os

                from omegaconf import OmegaConf
                from verl.trainer.ppo import core_algos

                estimator = core_algos.ADV_ESTIMATOR_REGISTRY["lipo"]
                said = io.StringIO()
                with contextlib.redirect_stdout(said):
                    advantages, _ = estimator(
                        rewards, mask, index=uids, config=OmegaConf.create({"lipo": {"boost": 0.2}})
                    )
                return os.getpid(), said.getvalue(), advantages

        batch = random_batch([4, 4])
        pid, said, advantages = ray.get(Worker.remote().look.remote(*batch), timeout=300)
    finally:
        ray.shutdown()
    assert said == (
        f"LIPO is live in process {pid} (verl {verl.__version__}): {LipoConfig(boost=0.2)}\n"
    )
    assert torch.equal(advantages, compute_lipo_advantage(*batch, algorithm(boost=0.2))[0])


# Schemes


@pytest.mark.parametrize("scheme", [scheme.name for scheme in schemes()])
def test_every_scheme_runs_through_verls_call_and_is_logged(scheme):
    rewards, mask, uids = random_batch([4, 6, 2, 4])
    section = {"scheme": scheme, "response_budget": 32}
    section |= {"target_length": 16} if scheme == "laser" else {}
    data = proto(rewards, mask, uids)
    data = ray_trainer.compute_advantage(data, "lipo", config=algorithm(**section))
    expected, groups = token_advantages(
        rewards, mask, uids, LipoConfig.parse(section), memory=Memory()
    )
    assert torch.equal(data.batch["advantages"], expected)
    assert expected.abs().max() > 0.5
    seen = metric_utils.compute_data_metrics(data, use_critic=False)
    assert {key: seen[key] for key in lipo_metrics(groups)} == pytest.approx(lipo_metrics(groups))


OFF = {"scheme": "gr3", "alpha": 0.0}
"""A scheme that leaves rewards as they are, unweighted."""


@pytest.mark.parametrize("seed", range(5))
def test_no_normalisation_is_verls_grpo_without_the_deviation(seed):
    rewards, mask, uids = random_batch([4, 6, 2, 4], seed, binary=False)
    expected, _ = core_algos.compute_grpo_outcome_advantage(
        rewards, mask, uids, norm_adv_by_std_in_grpo=False
    )
    data = ray_trainer.compute_advantage(
        proto(rewards, mask, uids), "lipo", config=algorithm(**OFF, normalization="none")
    )
    torch.testing.assert_close(data.batch["advantages"], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_batchs_deviation_is_verls_reinforce_plus_plus_where_all_are_equally_long(seed):
    rewards, _, uids = random_batch([4, 6, 2, 4], seed, binary=False)
    mask = torch.ones_like(rewards, dtype=torch.int64)
    expected, _ = core_algos.compute_reinforce_plus_plus_baseline_outcome_advantage(
        rewards.clone(), mask, uids
    )
    data = ray_trainer.compute_advantage(
        proto(rewards, mask, uids), "lipo", config=algorithm(**OFF, normalization="batch")
    )
    tokens = mask.numel()
    bessel = ((len(uids) - 1) / len(uids) * tokens / (tokens - 1)) ** 0.5  # verl: over all tokens
    torch.testing.assert_close(data.batch["advantages"], expected * bessel, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    "filter_groups" not in ppo_config().algorithm, reason="this verl filters in recipe/dapo alone"
)
def test_dlers_recipe_of_the_documentation_is_a_launch_without_a_warning(caplog):
    text = (Path(__file__).parents[2] / "docs" / "schemes.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"## DLER.*?```sh\n(.*?)```", text, re.S)
    overrides = [word for word in command.split() if "=" in word]
    assert len(overrides) == 10
    config = ppo_config(*overrides)
    validate(config)
    assert not [record for record in caplog.records if record.name.startswith("lipo_verl")]
    # What verl's reward managers and lipo_verl.rewards both call it.
    assert config.algorithm.filter_groups.metric == "acc"
    settings = LipoConfig.parse(config.algorithm.lipo)
    assert (settings.scheme, settings.normalization) == ("truncation", "batch")
    assert settings.response_budget == 4000

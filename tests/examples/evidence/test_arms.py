"""Every arm of the study is a configuration that verl composes and LIPO takes."""

from functools import cache

import pytest

from examples.evidence.arms import ARMS, BUDGET, BY_NAME
from examples.evidence.study import SHARED, SIZES
from examples.quickstart import train
from lipo_verl.config import LipoConfig
from lipo_verl.cpu.launch import ARGUMENTS
from lipo_verl.schemes import schemes


@cache
def compose(arm, strength):
    """verl's configuration of an arm's trial."""
    pytest.importorskip("verl")
    import hydra

    search = f"hydra.searchpath=[pkg://lipo_verl.cpu.config,file://{train.HERE / 'config'}]"
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return hydra.compose(
            "ppo_trainer",
            overrides=[
                search,
                *ARGUMENTS[1:],
                "+quickstart=train",
                *SHARED,
                *arm.overrides(strength),
            ],
        )


CASES = [(arm, strength) for arm in ARMS for strength in arm.strengths]


@pytest.mark.parametrize(("arm", "strength"), CASES, ids=lambda each: getattr(each, "name", each))
def test_verl_composes_an_arm_and_lipo_takes_its_settings(arm, strength):
    config = compose(arm, strength)
    settings = LipoConfig.parse(config.algorithm.get("lipo"))
    assert not list(settings.without_effect)
    assert config.algorithm.adv_estimator == ("grpo" if arm.name == "grpo" else "lipo")
    if strength is not None:
        knob, composed = arm.knob.lstrip("+"), config
        for name in knob.split("."):
            composed = composed[name]
        assert composed == strength


def test_all_arms_share_prompts_steps_and_learning_rate():
    shared = {
        (
            config.data.train_batch_size,
            config.actor_rollout_ref.rollout.n,
            config.actor_rollout_ref.actor.ppo_mini_batch_size,
            config.actor_rollout_ref.actor.optim.lr,
            config.actor_rollout_ref.rollout.temperature,
        )
        for config in (compose(*case) for case in CASES)
    }
    assert len(shared) == 1
    assert compose(BY_NAME["grpo"], None).data.max_response_length == BUDGET


def test_every_scheme_is_in_the_grid_and_every_arm_but_one_has_two_strengths():
    named = {
        setting.rpartition("=")[2]
        for arm in ARMS
        for setting in arm.settings
        if "lipo.scheme=" in setting
    }
    assert named == {scheme.name for scheme in schemes()}
    assert {arm.name for arm in ARMS if len(arm.strengths) != 2} == {"grpo"}
    assert set(SIZES["small"].arms) <= BY_NAME.keys()

"""The reward as verl loads and calls it, and how it ends verl's trainer."""

import types

import pytest

pytest.importorskip("verl.trainer.main_ppo", reason="volcengine's verl is not installed")

import hydra
import ray
from omegaconf import OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn

from lipo_verl.rewards import for_verl, stop
from lipo_verl.rewards.errors import RewardSetupError, RewardStopped

PATH = "pkg://lipo_verl.rewards.for_verl"


def load(path, **settings):
    """The function that verl makes of its configuration."""
    overrides = [
        f"reward.custom_reward_function.path={path}",
        *(f"+reward.custom_reward_function.reward_kwargs.{k}={v}" for k, v in settings.items()),
    ]
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        return get_custom_reward_fn(hydra.compose("ppo_trainer", overrides=overrides))


def call(function, response, truth, source="quickstart/ocr"):
    return function(
        data_source=source,
        solution_str=response,
        ground_truth=truth,
        extra_info={"num_turns": None, "rollout_reward_scores": {}},
    )


@pytest.mark.parametrize("path", [PATH, for_verl.__file__])
def test_verl_loads_the_reward_by_package_and_by_file(path):
    parts = call(load(path), "Answer: K7U", "K7UX")
    assert parts == {
        "score": 0.75,
        "acc": 0.75,
        "format": 1.0,
        "answer_found": 1.0,
        "reward_error": 0.0,
        "reward_timeout": 0.0,
    }


def test_settings_arrive_from_the_command_line():
    function = load(PATH, task="exact", template="think_boxed", format_weight="0.3")
    assert call(function, "\\boxed{7}", "7.0")["score"] == pytest.approx(0.7)


def test_a_task_per_data_source_arrives_from_a_file():
    config = OmegaConf.create(
        {"reward": {"custom_reward_function": {"path": PATH, "name": "compute_score"}}}
    )
    config.reward.custom_reward_function.reward_kwargs = {"tasks": {"my/scans": "anls"}}
    parts = call(get_custom_reward_fn(config), "Answer: k7u", "K7UX", source="my/scans")
    assert parts["score"] == 0.75


def test_what_verl_passes_for_reward_models_is_no_setting():
    assert for_verl.compute_score("x/exact", "Answer: 7", "7", reward_router_address="a:1")


def test_a_misspelt_setting_stops_the_run():
    with pytest.raises(RewardSetupError, match="Did you mean task?"):
        call(load(PATH, taks="exact"), "\\boxed{7}", "7")


# Ending the trainer


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def replay_buffer():
    """A stand-in for verl's module, whose own class polls TransferQueue."""

    class ReplayBuffer:
        polls = 0

        def _sync_metadata_from_transfer_queue(self):
            self.polls += 1

    return types.SimpleNamespace(ReplayBuffer=ReplayBuffer)


@pytest.mark.slow
def test_importing_verl_makes_both_replay_buffers_watch():
    from verl.trainer.ppo.v1 import replay_buffer as real

    for cls in (real.ReplayBuffer, real.ReplayBufferAsync):
        assert cls._sync_metadata_from_transfer_queue.lipo_verl_watches


def test_a_reward_worker_that_gives_up_ends_the_trainers_wait(cluster):
    module = replay_buffer()
    stop.watch(module)
    stop.watch(module)
    buffer = module.ReplayBuffer()
    buffer._sync_metadata_from_transfer_queue()
    assert buffer.polls == 1

    @ray.remote(num_cpus=0)
    class RewardWorker:
        def score(self):
            return for_verl.compute_score("no/such", "Answer: 7", "7")

    with pytest.raises(RewardSetupError):
        ray.get(RewardWorker.remote().score.remote())
    with pytest.raises(RewardStopped, match="RewardSetupError: Nothing says how to score"):
        buffer._sync_metadata_from_transfer_queue()
    assert buffer.polls == 1


@pytest.mark.slow
def test_without_ray_nobody_is_told_and_nothing_breaks(monkeypatch):
    monkeypatch.setattr(stop, "_in_a_job", lambda: False)
    stop.ask_to_stop("x")
    stop.raise_if_asked()

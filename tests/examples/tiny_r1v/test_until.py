"""Saving every step before the time is over, in verl's own callback."""

import time
from types import SimpleNamespace

import pytest

pytest.importorskip("verl")

from omegaconf import OmegaConf
from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

from examples.tiny_r1v.launch.until import SaveFrom


def config_of(save_from, save_freq=20):
    return OmegaConf.create(
        {
            "recipe": {"save_from": save_from},
            "trainer": {
                "save_freq": save_freq,
                "checkpoint_callback_class": f"{SaveFrom.__module__}.{SaveFrom.__name__}",
            },
        }
    )


@pytest.fixture
def callback(tmp_path):
    """A function that saves a step as verl does, of a run of 100."""
    callback = build_checkpoint_callback(config_of(time.time() + 3600))

    def save(step):
        folder = tmp_path / f"global_step_{step}"
        folder.mkdir()
        trainer = SimpleNamespace(total_training_steps=100)
        callback.on_save(
            trainer=trainer, global_step=step, checkpoint_dir=str(folder), async_save=False
        )
        return sorted(int(each.name.split("_")[-1]) for each in tmp_path.glob("global_step_*"))

    return save


def test_verl_saves_every_step_from_then_on():
    config = config_of(time.time() + 0.5)
    build_checkpoint_callback(config)
    assert config.trainer.save_freq == 20
    deadline = time.monotonic() + 30
    while config.trainer.save_freq != 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("save_freq, often", [(60, 20), (20, 20), (10, 10), (30, 30), (-1, -1)])
def test_runs_that_save_seldom_save_more_often_before(save_freq, often):
    config = config_of(time.time() + 3600, save_freq)
    build_checkpoint_callback(config)
    assert config.trainer.save_freq == often


def test_what_was_saved_more_often_is_out_of_turn(tmp_path):
    callback = SaveFrom(config_of(time.time() + 3600, save_freq=60))
    for step in (20, 40, 60, 80):
        (tmp_path / f"global_step_{step}").mkdir()
        trainer = SimpleNamespace(total_training_steps=360)
        callback.on_save(trainer, step, str(tmp_path / f"global_step_{step}"))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == [
        "global_step_60",
        "global_step_80",
    ]


def test_a_checkpoint_out_of_turn_is_kept_until_a_later_one_is_whole(callback):
    assert [callback(step) for step in (20, 37, 38, 40, 59, 100)] == [
        [20],
        [20, 37],
        [20, 38],
        [20, 40],
        [20, 40, 59],
        [20, 40, 100],
    ]


def test_the_last_step_is_never_out_of_turn(tmp_path):
    callback = SaveFrom(config_of(time.time() + 3600))
    for step in (50, 60):  # the run was 50 steps long, and became longer
        (tmp_path / f"global_step_{step}").mkdir()
        trainer = SimpleNamespace(total_training_steps=step)
        callback.on_save(trainer, step, str(tmp_path / f"global_step_{step}"))
    assert (tmp_path / "global_step_50").exists()

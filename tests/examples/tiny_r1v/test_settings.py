"""Which settings a run has, and which of them its folder is held to."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

pytest.importorskip("hydra")  # comes with verl

from examples.run_folder import SettingsDiffer
from examples.tiny_r1v.config.easyr1.compose import compose
from examples.tiny_r1v.launch.settings import NotComposed, composed, keep, settings

REPOSITORY = Path(__file__).parents[3]


def verl(*overrides, gpus=8, output="/a run"):
    return "verl.trainer.main_ppo", (
        f"--config-dir={REPOSITORY}/examples/tiny_r1v/config/verl",
        *("+tiny_r1v=common", "+tiny_r1v/size=3b", f"+tiny_r1v/machine=gpus_{gpus}"),
        *("+tiny_r1v/expert=ocr", "+tiny_r1v/algorithm=lipo", "recipe.data='/some data'"),
        *(f"recipe.output='{output}'", "hydra.run.dir=x", *overrides),
    )


@pytest.fixture
def easyr1(tmp_path):
    def command(*overrides, gpus=8, output="/a run"):
        paths = {"data": Path("/some data"), "output": Path(output)}
        config = compose(algorithm="lipo", expert="ocr", gpus=gpus, **paths)
        OmegaConf.save(config, tmp_path / f"gpus_{gpus}.yaml")
        return "lipo_verl.easyr1", (f"config={tmp_path}/gpus_{gpus}.yaml", *overrides)

    return command


@pytest.fixture(params=["verl", "easyr1"])
def command(request):
    return verl if request.param == "verl" else request.getfixturevalue("easyr1")


def test_machine_place_and_what_is_written_are_no_settings(command):
    others = ("trainer.nnodes=2", "trainer.save_freq=7", "trainer.logger=[console]")
    elsewhere = command(*others, gpus=1, output="/elsewhere")
    assert settings(composed(*command())) == settings(composed(*elsewhere))


def test_a_time_limit_is_no_setting():
    limit = ("+recipe.save_from=1800000000", "trainer.checkpoint_callback_class=x.Y")
    assert settings(composed(*verl())) == settings(composed(*verl(*limit)))


def test_what_differs_is_what_was_set_otherwise(command):
    """Neither what has the same value nor what follows from another setting."""
    others = {"algorithm.lipo.std_floor": 0.3, "data.max_response_length": 1024}
    overrides = [f"{name}={value}" for name, value in others.items()]
    one = settings(composed(*command()))
    other = settings(composed(*command(*overrides, "algorithm.lipo.boost=0.1")))
    assert {name: other[name] for name in other if one[name] != other[name]} == others
    assert one.keys() == other.keys()


def begun(output):
    (output / "checkpoints" / "global_step_2").mkdir(parents=True)


def test_a_trial_is_no_beginning_of_the_real_run_unless_the_command_says_so(easyr1, tmp_path):
    keep(tmp_path, *easyr1("trainer.max_steps=2"))
    begun(tmp_path)
    keep(tmp_path, *easyr1("trainer.max_steps=2"))
    with pytest.raises(SettingsDiffer, match=r'\("trainer.max_steps": 2, now 120\)'):
        keep(tmp_path, *easyr1())
    keep(tmp_path, *easyr1("trainer.max_steps=120"))
    keep(tmp_path, *easyr1())
    with pytest.raises(SettingsDiffer, match=r'\("trainer.max_steps": 120, now 60\)'):
        keep(tmp_path, *easyr1("trainer.max_steps=60"))


def test_before_anything_was_trained_settings_may_change(easyr1, tmp_path):
    for boost in (1, 2):
        keep(tmp_path, *easyr1(f"algorithm.lipo.boost={boost}"))
    record = json.loads((tmp_path / "settings.json").read_text())
    assert record["algorithm.lipo.boost"] == 2
    (tmp_path / "metrics-from-0.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(SettingsDiffer, match=r'"algorithm.lipo.boost": 2, now 1\)'):
        keep(tmp_path, *easyr1("algorithm.lipo.boost=1"))


def test_a_run_without_a_record_does_not_resume(easyr1, tmp_path):
    begun(tmp_path)
    with pytest.raises(SettingsDiffer, match=r"no settings\.json that says"):
        keep(tmp_path, *easyr1())


def test_what_the_framework_cannot_read_is_said(command):
    with pytest.raises(NotComposed, match="cannot read these settings"):
        composed(*command("algorithm.lipo.boost=[1"))


@pytest.mark.parametrize(
    "command, other",
    [("verl", "trainer.resume_mode=disable"), ("easyr1", "trainer.load_checkpoint_path=/other")],
    indirect=["command"],
)
def test_a_run_that_was_begun_elsewhere_resumes_from_its_own_checkpoints(command, tmp_path, other):
    keep(tmp_path, *command(other))
    begun(tmp_path)
    with pytest.raises(SettingsDiffer, match=f"{other} would train over them.* Leave it out"):
        keep(tmp_path, *command(other))
    keep(tmp_path, *command())

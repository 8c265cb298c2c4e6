"""The drop-in launcher: which framework it finds, and what it hands to Ray."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from lipo_verl.config import LipoSetupError
from lipo_verl.easyr1 import hook, launch


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes the folder of a package verl whose trainer has the given modules."""

    def install(*modules):
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        for name in [m for m in sys.modules if m == "verl" or m.startswith("verl.")]:
            monkeypatch.delitem(sys.modules, name)
        if modules:
            (tmp_path / "verl" / "trainer").mkdir(parents=True)
            (tmp_path / "verl" / "__init__.py").write_text("raise ImportError('imported')")
        for module in modules:
            (tmp_path / "verl" / "trainer" / f"{module}.py").touch()

    return install


def test_easyr1_is_recognised_without_importing_it(installed):
    installed("main", "core_algos")
    launch.check_framework()


@pytest.mark.parametrize(
    "modules, message",
    [
        ((), "EasyR1 is not installed here.*pip install -e"),
        (
            ("main_ppo", "main_eval"),
            "needs no launcher: put algorithm.adv_estimator=lipo into.*by itself, in verl 0.5 and",
        ),
        (("sft",), "is not EasyR1: it has no verl.trainer.main"),
    ],
    ids=["none", "volcengine", "unknown"],
)
def test_anything_else_is_refused(installed, modules, message):
    installed(*modules)
    with pytest.raises(LipoSetupError, match=message):
        launch.check_framework()


@pytest.fixture
def ray(monkeypatch):
    """A module ray that returns what it was initialised with."""
    ray = types.ModuleType("ray")
    ray.init = lambda address=None, *, runtime_env=None, **rest: (address, runtime_env, rest)
    monkeypatch.setitem(sys.modules, "ray", ray)
    launch._install_in_ray_workers()
    return ray


def test_every_ray_worker_is_told_to_install_the_hook(ray):
    environment = {"env_vars": {"NCCL_DEBUG": "WARN"}}
    address, runtime_env, rest = ray.init("auto", runtime_env=environment, num_cpus=2)
    assert (address, rest) == ("auto", {"num_cpus": 2})
    setup_hook = runtime_env.pop("worker_process_setup_hook")
    assert runtime_env == environment
    module, _, function = setup_hook.rpartition(".")
    assert getattr(sys.modules[module], function) is hook.install
    assert ray.init()[1] == {"worker_process_setup_hook": setup_hook}


def test_a_setup_hook_of_the_users_is_not_lost(ray):
    with pytest.raises(LipoSetupError, match="has a worker_process_setup_hook already, theirs.f"):
        ray.init(runtime_env={"worker_process_setup_hook": "theirs.f"})


@pytest.mark.parametrize(
    "variables, message",
    [
        ((), "make test-easyr1 EASYR1_HOME=checkout EASYR1_PYTHON=python: a checkout of EasyR1"),
        (("EASYR1_PYTHON=false",), "or has no math-verify.*false -m pip install '.[rewards]'"),
    ],
    ids=["no variables", "no rewards"],
)
def test_make_says_what_testing_in_easyr1_takes(tmp_path, variables, message):
    (tmp_path / "verl").mkdir()
    home = (f"EASYR1_HOME={tmp_path}",) if variables else ("EASYR1_HOME=", "EASYR1_PYTHON=")
    make = ["make", "-C", Path(__file__).parents[3], "test-easyr1", *home, *variables]
    done = subprocess.run(make, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(message.replace("[", r"\["), done.stderr)

"""When the hook acts, and when it does not: on fake packages named verl, each in a new process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def run(tmp_path):
    """Runs code after ``hook.install()`` beside a package verl that has the given modules."""

    def run(code, **modules):
        for name, source in {"__init__": "", **modules}.items():
            (tmp_path / "verl" / "trainer").mkdir(parents=True, exist_ok=True)
            (tmp_path / "verl" / "trainer" / f"{name}.py").write_text(source)
        (tmp_path / "verl" / "__init__.py").write_text("__version__ = '9.9'")
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"
        env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True)

    return run


INSTALL = "from lipo_verl.easyr1 import hook; hook.install()\n"
ADAPTED = "print('lipo_verl.easyr1.adapter' in sys.modules)"


def test_volcengines_verl_is_left_alone(run):
    done = run(INSTALL + "import verl.trainer.config\n" + ADAPTED, config="class AlgoConfig: ...")
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_nothing_of_weight_is_loaded_before_easyr1_is(run):
    done = run(INSTALL + "print({'torch', 'verl', 'pydantic', 'typing'} & set(sys.modules))")
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_installing_twice_is_installing_once(run):
    code = (
        INSTALL * 2
        + "from lipo_verl.import_hook import _callbacks; print(*map(len, _callbacks.values()))"
    )
    assert run(code).stdout == "1 1 1\n"


@pytest.mark.parametrize("late", ["core_algos", "config"])
def test_installing_after_easyr1_was_imported_is_an_error(run, late):
    easyr1 = "class PPOConfig: ...\nclass AlgorithmConfig: ..."
    done = run(f"import verl.trainer.{late}\n" + INSTALL, core_algos="", config=easyr1)
    assert "LipoSetupError: EasyR1's verl.trainer is imported already" in done.stderr
    assert "at the top of the script" in done.stderr


def test_an_unknown_version_of_easyr1_keeps_its_registry(run):
    core_algos = "from enum import Enum\nclass AdvantageEstimator(str, Enum):\n    GRPO = 'grpo'\n"
    code = INSTALL + "from verl.trainer.core_algos import *; print(*AdvantageEstimator.__members__)"
    done = run(code, core_algos=core_algos)
    assert (done.stdout, done.stderr) == ("GRPO\n", "")

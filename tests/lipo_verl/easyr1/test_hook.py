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
        alone = "[f for f in sys.meta_path if type(f).__module__ != 'lipo_verl.hook']"  # of pip's
        start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.meta_path[:] = {alone}\n"
        code = start + code
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


# EasyR1 by what it offers: the fake one's version, 9.9, says nothing

ENUM = "from enum import Enum\nclass AdvantageEstimator(str, Enum):\n    GRPO = 'grpo'\n"

REGISTRY = (
    "ADV_ESTIMATOR_MAP = {}\n"
    "def register_adv_estimator(name):\n"
    "    return lambda function: ADV_ESTIMATOR_MAP.setdefault(name, function)\n"
)

CONFIG = """
from dataclasses import dataclass, field

@dataclass
class AlgorithmConfig:
    adv_estimator: str = 'grpo'

@dataclass
class PPOConfig:
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    def deep_post_init(self): print('passed')
"""

LAUNCH = INSTALL + (
    "from verl.trainer import config, core_algos\n"
    "print(*core_algos.AdvantageEstimator.__members__)\n"
    "config.PPOConfig().deep_post_init()\n"
)


@pytest.mark.slow
def test_any_version_that_has_a_registry_gets_lipo(run):
    done = run(LAUNCH, core_algos=ENUM + REGISTRY, config=CONFIG)
    assert (done.stdout, done.stderr) == ("GRPO LIPO\npassed\n", "")


@pytest.mark.slow
def test_easyr1_without_a_registry_is_left_alone_and_refuses_lipo(run):
    """As 0.3.0 and 0.3.1 are."""
    lipo = "config.PPOConfig(config.AlgorithmConfig('lipo')).deep_post_init()"
    done = run(LAUNCH + lipo, core_algos=ENUM, config=CONFIG)
    assert done.stdout == "GRPO\npassed\n"
    assert done.stderr.splitlines()[-1].endswith(
        "EasyR1 9.9 has no verl.trainer.core_algos.ADV_ESTIMATOR_MAP, "
        "verl.trainer.core_algos.register_adv_estimator, by which LIPO gets in: EasyR1 0.3.2 is "
        "the first that has all of it. Install that or a later one; where yours is later, "
        "lipo_verl is too old for it."
    )

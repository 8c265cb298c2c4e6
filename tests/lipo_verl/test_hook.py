"""What the hook of every interpreter does once a module named verl is imported: fake ones, each in
a new process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

INSTALL = "from lipo_verl import hook; hook.install()\n"
LOADED = "import verl; print('lipo_verl.verl_plugin' in sys.modules)\n"
CALLBACKS = (
    "from lipo_verl.import_hook import _callbacks\n"
    "print(*(f'{name}:{len(called)}' for name, called in sorted(_callbacks.items())))\n"
)
EASYR1 = "verl.trainer.config:1 verl.trainer.core_algos:1 verl.trainer.ray_trainer:1"


@pytest.fixture
def run(tmp_path):
    """Runs code where verl is a package whose trainer has these modules."""

    def run(code, *modules, plugin=""):
        for module in ("__init__", *modules):
            path = tmp_path / "verl" / "trainer" / f"{module}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "verl" / "__init__.py").write_text("version = 1")
        path = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        if plugin:
            path += f"import lipo_verl; lipo_verl.__path__.insert(0, {str(tmp_path)!r})\n"
            (tmp_path / "verl_plugin.py").write_text(plugin)
        env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            [sys.executable, "-c", path + code], env=env, text=True, capture_output=True
        )

    return run


def test_verl_gets_the_plug_in_once_it_is_imported_whole(run):
    plugin = "import verl; print(verl.version)"
    done = run(INSTALL * 2 + LOADED, "ppo/core_algos", plugin=plugin)
    assert (done.stdout, done.stderr) == ("1\nTrue\n", "")


def test_a_plug_in_that_verl_loaded_itself_is_not_loaded_again(run):
    load = "import lipo_verl.verl_plugin\n"
    done = run(INSTALL + load + LOADED, "ppo/core_algos", plugin="import verl; print('loaded')")
    assert (done.stdout, done.stderr) == ("loaded\nTrue\n", "")


def test_a_plug_in_that_fails_is_named_and_does_not_stop_verl(run):
    done = run(INSTALL + LOADED, "ppo/core_algos", plugin="raise OSError('broken')")
    assert done.stdout == "False\n"
    assert done.stderr.startswith("LIPO could not be loaded; verl goes on without it")
    assert done.stderr.splitlines()[-1] == "OSError: broken"


def test_easyr1_gets_its_own_hooks_and_not_the_plug_in(run):
    done = run(INSTALL + LOADED + CALLBACKS, "core_algos", plugin="print('loaded')")
    assert (done.stdout, done.stderr) == (f"False\n{EASYR1}\n", "")


@pytest.mark.parametrize("first", [True, False])
def test_the_file_that_an_older_version_switched_on_adds_nothing(run, first):
    switched_on = "from lipo_verl.easyr1.hook import install; install()\n"
    both = switched_on + INSTALL if first else INSTALL + switched_on
    done = run(both + LOADED + CALLBACKS, "core_algos", plugin="print('loaded')")
    assert (done.stdout, done.stderr) == (f"False\n{EASYR1}\n", "")


def test_it_leaves_sys_meta_path_once_it_has_done_its_work(run):
    finders = (
        "print([type(finder).__module__ for finder in sys.meta_path].count('lipo_verl.hook'))\n"
    )
    done = run(INSTALL * 2 + finders + LOADED + finders, "core_algos")
    assert done.stdout == "1\nFalse\n0\n"


def test_looking_for_verl_without_importing_it_keeps_the_hook(run):
    look = "from importlib.util import find_spec; find_spec('verl')\n"
    done = run(INSTALL + look + LOADED, "ppo/core_algos", plugin="print('loaded')")
    assert (done.stdout, done.stderr) == ("loaded\nTrue\n", "")


def test_without_verl_nothing_of_it_shows(run):
    done = run(INSTALL + "sys.path.pop(0); sys.path_importer_cache.clear()\nimport json, email\n")
    assert (done.stdout, done.stderr) == ("", "")

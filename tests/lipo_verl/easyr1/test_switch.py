"""The switch, in virtual environments of its own."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from lipo_verl.easyr1 import switch

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    return folder


@pytest.fixture
def python(environment):
    """Runs that environment's Python; ``lipo`` is whether lipo_verl is installed there."""

    def run(*arguments, lipo=True):
        path = {"PYTHONPATH": str(REPOSITORY)} if lipo else {}
        base = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        return subprocess.run(
            [environment / "bin" / "python", *arguments],
            env=base | path,
            text=True,
            capture_output=True,
            cwd=environment,
        )

    return run


def site_packages(environment):
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    return environment / "lib" / version / "site-packages"


HOOKED = "import sys; print('lipo_verl.easyr1.hook' in sys.modules)"


def test_on_hooks_every_interpreter_until_off(python, environment):
    file = site_packages(environment) / switch.FILE
    assert python("-c", HOOKED).stdout == "False\n"
    on = python("-m", "lipo_verl.easyr1.switch", "on")
    assert on.stdout == f"LIPO in EasyR1 is on in {environment}: {file}\n"
    assert python("-c", HOOKED).stdout == "True\n"
    assert python("-m", "lipo_verl.easyr1.switch", "status").stdout == on.stdout
    assert [path.name for path in file.parent.glob("*lipo*")] == [switch.FILE]
    off = python("-m", "lipo_verl.easyr1.switch", "off")
    assert off.stdout == f"LIPO in EasyR1 is off in {environment}: there is no {file}\n"
    assert python("-c", HOOKED).stdout == "False\n"
    again = python("-m", "lipo_verl.easyr1.switch", "off")
    assert (again.returncode, again.stdout) == (0, off.stdout)


@pytest.fixture
def switched_on(environment):
    folder = site_packages(environment)
    yield switch.switch_on(folder)
    switch.switch_off(folder)


def test_on_is_harmless_once_lipo_verl_is_uninstalled(python, switched_on):
    started = python("-c", HOOKED, lipo=False)
    assert (started.returncode, started.stdout, started.stderr) == (0, "False\n", "")


def test_status_tells_an_environment_that_does_not_find_lipo_verl(python, switched_on):
    """Started from a checkout that is not installed: only this one process finds lipo_verl."""
    code = (
        f"import sys; sys.path.append({str(REPOSITORY)!r}); from lipo_verl.easyr1 import switch; "
        f"print(switch.describe(switch.Path({str(switched_on.parent)!r})))"
    )
    assert "does not find lipo_verl" in python("-c", code, lipo=False).stdout


def test_on_loads_nothing_but_the_hook(python, switched_on):
    code = "import sys; print(*sorted(m for m in sys.modules if not m.startswith('_')))"
    plain = python("-S", "-c", code).stdout.split()
    hooked = python("-c", code).stdout.split()
    ours = {m for m in hooked if m.startswith("lipo_verl")}
    assert ours == {
        "lipo_verl",
        "lipo_verl.easyr1",
        "lipo_verl.easyr1.hook",
        "lipo_verl.import_hook",
    }
    switch.switch_off(switched_on.parent)
    unhooked = python("-c", code).stdout.split()
    assert set(hooked) - set(unhooked) == ours
    assert set(plain) <= set(unhooked)


def test_a_folder_that_cannot_be_written_gets_an_error_that_says_what_to_do(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(switch.sysconfig, "get_path", lambda _: str(tmp_path / "file"))
    monkeypatch.setattr(sys, "argv", ["switch", "on"])
    with pytest.raises(SystemExit) as stop:
        switch.main()
    assert "Cannot switch on: Not a directory" in stop.value.code
    assert "python3 -m lipo_verl.easyr1" in stop.value.code
    assert capsys.readouterr().out == ""

"""What a command says where the merger's own packages are not installed."""

import subprocess
import sys

import pytest

MISSING = "amm needs numba, typer: pip install '.[amm]' in a clone of lipo_verl."


def run(code):
    """In a Python that doesn't find numba and typer."""
    hide = "import sys; sys.modules.update(numba=None, typer=None)\n"
    return subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True)


def test_the_command_says_which_extra_to_install():
    done = run("from amm.__main__ import main; main()")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", MISSING + "\n")


@pytest.mark.parametrize("name", ["merge", "plan", "check"])
def test_python_says_so_as_well(name):
    done = run(f"import amm; amm.{name}")
    assert done.stderr.splitlines()[-1] == f"ImportError: {MISSING}"


def test_a_calibration_says_what_it_needs_beside():
    code = "sys.modules['transformers'] = None\ndel sys.modules['numba'], sys.modules['typer']\n"
    code += "sys.argv = ['amm', 'calibrate', 'activations']\nfrom amm.__main__ import main; main()"
    done = run(code)
    said = "amm needs transformers: pip install '.[calibrate]' in a clone of lipo_verl.\n"
    assert (done.returncode, done.stderr) == (1, said)

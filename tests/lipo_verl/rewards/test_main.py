"""The command that prints what names the reward in a configuration."""

import importlib.util
import subprocess
import sys

import pytest

from lipo_verl.rewards import __main__ as command


@pytest.mark.parametrize(("framework", "function"), [("verl", ""), ("easyr1", "compute_score")])
def test_the_printed_file_defines_the_function(framework, function, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rewards", framework])
    command.main()
    path, _, name = capsys.readouterr().out.strip().partition(":")
    assert name == function
    spec = importlib.util.spec_from_file_location("custom_reward_fn", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.compute_score)


def test_the_reward_imports_no_framework():
    """It runs in many small processes: torch, ray or verl would cost seconds and memory there."""
    code = (
        "import sys, lipo_verl.rewards.for_verl, lipo_verl.rewards.for_easyr1;"
        "print([m for m in ('torch', 'ray', 'verl', 'sympy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

"""A run's folder: its settings, and who works in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples import run_folder
from examples.run_folder import FolderInUse, SettingsDiffer, keep_settings, sole_launch

REPOSITORY = Path(__file__).parents[2]


def test_every_setting_that_differs_is_named_with_both_values(tmp_path):
    keep_settings(tmp_path, {"model": "a", "boost": 0.1, "lr": 1e-6})
    with pytest.raises(SettingsDiffer) as refusal:
        keep_settings(tmp_path, {"model": "b", "boost": 0.1, "decay": "cosine"})
    assert str(refusal.value) == (
        f'{tmp_path} holds a run with other settings ("model": "a", now "b"; "lr": 1e-06, now not '
        'set; "decay": not set, now "cosine"). Remove that folder, or choose another one with '
        "--output."
    )
    keep_settings(tmp_path, {"lr": 1e-6, "boost": 0.1, "model": "a"})


@pytest.mark.parametrize("now", [0.1, 1, 1.0, "1", None, [1]], ids=repr)
def test_settings_are_the_same_only_if_their_values_and_types_are(tmp_path, now):
    keep_settings(tmp_path, {"x": 1})
    if now == 1 and type(now) is int:
        return keep_settings(tmp_path, {"x": now})
    with pytest.raises(SettingsDiffer):
        keep_settings(tmp_path, {"x": now})


def test_what_may_grow_does_not_shrink_again(tmp_path):
    for steps in (2, 2, 5):
        keep_settings(tmp_path, {"steps": steps}, may_grow=["steps"])
    with pytest.raises(SettingsDiffer, match=r'"steps": 5, now 2'):
        keep_settings(tmp_path, {"steps": 2}, may_grow=["steps"])


HOLDS = """
import sys, pathlib
from examples.run_folder import sole_launch
with sole_launch(pathlib.Path(sys.argv[1])):
    print("works", flush=True)
    sys.stdin.read()
"""


def test_a_second_launch_is_told_of_the_first_and_a_dead_one_is_not_in_the_way(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDS, tmp_path],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with first:
        assert first.stdout.readline() == b"works\n"
        with pytest.raises(FolderInUse, match=f"in use: process {first.pid} on .*, since 20"):
            with sole_launch(tmp_path):
                pass
        first.kill()
    for _ in range(2):
        with sole_launch(tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / run_folder.LOCK).read_text()


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(run_folder.fcntl, "flock", flock)
    with sole_launch(tmp_path):
        assert "Function not implemented; this file system has no locks" in capsys.readouterr().err

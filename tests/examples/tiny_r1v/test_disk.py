"""The disk of the whole recipe."""

import subprocess
import sys
from pathlib import Path

import pytest

from examples.tiny_r1v.launch import disk
from examples.tiny_r1v.size.estimate import GB
from examples.tiny_r1v.size.shapes import shape
from examples.tiny_r1v.table import METHODS

REPOSITORY = Path(__file__).parents[3]


def run(*arguments):
    command = [sys.executable, "-m", disk.__name__, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_twelve_runs_take_about_1800_gigabytes():
    assert disk.recipe_bytes(shape("3b"), 12) == pytest.approx(1800 * GB, rel=0.03)


def test_as_many_merges_are_counted_as_the_table_makes():
    assert len(METHODS) == disk.MERGES


def test_too_little_disk_ends_it_before_the_first_run(tmp_path):
    done = run(tmp_path / "runs", "--runs", 1000000)
    assert done.returncode == 1
    assert "GB are free. Another place with --output" in done.stderr


def test_a_model_of_unknown_size_stops_nothing(tmp_path):
    done = run(tmp_path, "--runs", 1, "--model", "some/model")
    assert done.returncode == 0
    assert "is not known. There is no some/model/config.json" in done.stderr

"""What the examples' runs have in common."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from amm import InputError
from examples.quickstart import stages


@dataclass(frozen=True)
class Settings:
    steps: int


def test_a_folder_keeps_its_settings(tmp_path):
    for _ in range(2):
        stages.keep_settings(tmp_path, Settings(steps=5))
    with pytest.raises(stages.SettingsDiffer, match=r"other settings .*\"steps\": 5.*--output"):
        stages.keep_settings(tmp_path, Settings(steps=6))
    stages.keep_settings(tmp_path, Settings(steps=5))


def test_the_command_line_has_an_option_for_each_setting(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(stages.sys, "argv", ["run", "--steps", "7", "--output", str(tmp_path)])
    stages.command(
        "a.b", "What it does.", lambda *given: seen.append(given), Settings(1), Path("x")
    )
    assert seen == [(tmp_path, Settings(7))]


@pytest.mark.parametrize("error", [stages.EvaluationFailed, InputError, ZeroDivisionError])
def test_errors_end_it_with_their_message(tmp_path, monkeypatch, error):
    def run(*_):
        raise error("what is wrong")

    monkeypatch.setattr(stages.sys, "argv", ["run"])
    with pytest.raises(SystemExit, match="what is wrong"):
        stages.command("a.b", "What it does.", run, Settings(1), tmp_path, ZeroDivisionError)


def test_a_failed_evaluation_names_its_log(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "no memory for $4" >&2\nexit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(stages.sys, "executable", str(python))
    with pytest.raises(stages.EvaluationFailed, match=r"ended with 3; its log: .*evaluation\.log"):
        stages.evaluate([tmp_path / "model", "named=model"], tmp_path, tmp_path, 64)
    assert (tmp_path / "evaluation.log").read_text() == "no memory for named=model\n"

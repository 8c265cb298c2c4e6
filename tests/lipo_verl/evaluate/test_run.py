"""An evaluation from inputs to summary, with answers that need no model."""

import json
import sys
from contextlib import contextmanager

import pytest

from lipo_verl.evaluate import __main__ as command
from lipo_verl.evaluate import engine
from lipo_verl.evaluate.engine import Answer
from tests.lipo_verl.evaluate.rows import question


class FakeEngine:
    """Answers with the question's number; the model called ``wrong`` with another."""

    def __init__(self, name, sampling):
        self.name, self.sampling, self.asked = name, sampling, 0

    def answer(self, conversations, rows):
        self.asked += len(rows)
        if self.name == "interrupted":
            raise KeyboardInterrupt
        if self.name == "long":
            raise ValueError("The prompt is longer than the model")
        answers = []
        for (message,), row in zip(conversations, rows, strict=True):
            number = message["content"][-1]["text"].removeprefix("What is ").rstrip("?")
            assert number == str(row)
            wrong = "1" if self.name == "wrong" else ""
            answers.append(Answer(f"Answer: {number}{wrong}", 5 if wrong else 10, False))
        return answers


@pytest.fixture
def engines(monkeypatch):
    """The fake engines that were loaded."""
    loaded: list[FakeEngine] = []

    @contextmanager
    def load(model, sampling, **_):
        loaded.append(FakeEngine(model.name, sampling))
        yield loaded[-1]

    monkeypatch.setattr(engine, "load", load)
    monkeypatch.setattr(engine, "check_options", lambda options: None)
    return loaded


@pytest.fixture
def run(monkeypatch, tmp_path, write, model_folder):
    """A function that runs the command line on models by name, and returns its exit code."""
    file = write([question(number) for number in range(4)])
    monkeypatch.setattr("lipo_verl.evaluate.run.AT_ONCE", 3)

    def run_command(*names, more=()):
        folders = [tmp_path / name for name in names]
        for folder in folders:
            if not folder.exists():
                model_folder(folder.name)
        arguments = [*map(str, folders), "--data", f"val={file}", "--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["evaluate", *arguments, *more])
        try:
            command.main()
        except SystemExit as stop:
            return stop.code
        return 0

    return run_command


def test_answers_are_scored_and_written(run, engines, tmp_path, capsys):
    assert run("right", "wrong") == 0
    figures = json.loads((tmp_path / "out/right/val.json").read_text())
    assert (figures["accuracy"], figures["mean_tokens"], figures["questions"]) == (1, 10, 4)
    assert json.loads((tmp_path / "out/wrong/val.json").read_text())["accuracy"] == 0
    lines = (tmp_path / "out/wrong/val.jsonl").read_text().splitlines()
    assert [json.loads(line)["response"] for line in lines] == [
        "Answer: 01", "Answer: 11", "Answer: 21", "Answer: 31"
    ]  # fmt: skip
    sample = json.loads(lines[2])
    assert (sample["id"], sample["truth"], sample["accuracy"]) == ("q2", "2", 0)
    printed = capsys.readouterr().out
    assert "right              val          accuracy 1.000 (0.510 to 1.000)" in printed
    assert "summary.md" in printed


def test_what_is_finished_is_not_run_again(run, engines, tmp_path, capsys):
    run("right", "wrong")
    (tmp_path / "out/wrong/val.json").unlink()
    engines.clear()
    assert run("right", "wrong") == 0
    assert [each.name for each in engines] == ["wrong"]
    engines.clear()
    assert run("right", "wrong") == 0
    assert engines == []
    assert "| right |" in (tmp_path / "out/summary.md").read_text()


def test_an_interruption_keeps_what_is_finished(run, engines, tmp_path, capsys):
    assert run("right", "interrupted") == 130
    assert "The same command resumes" in capsys.readouterr().err
    assert (tmp_path / "out/right/val.json").exists()
    assert not list((tmp_path / "out/interrupted").glob("*.json*l"))


def test_other_settings_in_the_same_folder_are_refused(run, engines, capsys):
    run("right")
    assert run("right", more=["--temperature", "1"]) == 2
    assert "holds another evaluation: sampling was" in capsys.readouterr().err


def test_the_baseline_is_compared_with_all_others(run, engines, tmp_path, capsys):
    assert run("right", "wrong", more=["--baseline", "right"]) == 0
    line = "wrong against right on val: -100.0 points of accuracy (-100.0 to -100.0), 50% of the"
    assert line in capsys.readouterr().out
    assert line in (tmp_path / "out/summary.md").read_text()


def test_a_misspelt_baseline_is_found_before_any_work(run, engines, capsys):
    assert run("right", more=["--baseline", "rihgt"]) == 2
    assert "No model is called rihgt. Did you mean right?" in capsys.readouterr().err
    assert engines == []


def test_a_prompt_that_is_too_long_is_named_by_file_and_rows(run, engines, capsys):
    assert run("long") == 2
    error = capsys.readouterr().err
    assert "val.parquet, rows 0 to 2: The prompt is longer" in error


def test_settings_reach_reward_and_sampling(run, engines, tmp_path):
    more = ["--reward", "tasks.mine/exact=ocr", "extract=whole", "--limit", "2"]
    assert run("right", more=[*more, "--temperature", "0.5", "--max-tokens", "9"]) == 0
    assert (engines[0].sampling.temperature, engines[0].sampling.max_tokens) == (0.5, 9)
    figures = json.loads((tmp_path / "out/right/val.json").read_text())
    assert figures["questions"] == 2
    assert figures["accuracy"] == pytest.approx(1 / 9)  # "Answer: 0" against "0"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--reward", "tsak=ocr"], "no such setting. Did you mean task"),
        (["--reward", "task"], "--reward task: write KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_named(run, engines, capsys, more, message):
    assert run("right", more=more) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", {"a": 1}),
        ("a=x", {"a": "x"}),
        ("a=True", {"a": True}),
        ("a.b/c.d=0.5", {"a": {"b/c.d": 0.5}}),
        ('a={"b": [1]}', {"a": {"b": [1]}}),
    ],
)
def test_values_are_json_or_text(text, value):
    assert command._settings("--vllm", [text]) == value

"""The table: what is merged, what is kept, and what is written."""

import json
from pathlib import Path

import pytest

from amm import InputError, load_config
from examples.tiny_r1v import table as module
from examples.tiny_r1v.table import MERGE, METHODS, Entry, experts_of, table, write
from lipo_verl.evaluate.results import Pair

RUNS = ("lipo-math", "lipo-ocr", "lipo-mixture", "grpo-math")


def answer(number, accuracy, tokens):
    return {
        "row": number,
        "data_source": "mine",
        "accuracy": accuracy,
        "tokens": tokens,
        "truncated": False,
        "answer_found": True,
        "reward_error": False,
    }


def merge_settings(command):
    return dict(word.split("=", 1) for word in command if "=" in word)


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    folders = []
    for name in RUNS:
        actor = tmp_path / "runs" / name / "checkpoints" / "global_step_5" / "actor"
        actor.mkdir(parents=True)
        (actor / "model_world_size_1_rank_0.pt").touch()
        folders.append(tmp_path / "runs" / name)
    return folders


@pytest.fixture
def commands(monkeypatch):
    """The commands that were run; merges and evaluations leave what the real ones would."""
    seen: list[list[str]] = []

    def run(command):
        seen.append(command)
        if command[2] == "amm":
            settings = merge_settings(command)
            output = Path(settings.pop("output"))
            output.mkdir(parents=True)
            settings["experts"] = json.loads(settings["experts"])
            (output / "provenance.json").write_text(json.dumps({"config": settings}))
        else:
            end = command.index("--data")
            output = Path(command[command.index("--output") + 1])
            for model in command[3:end]:
                name = model.partition("=")[0]
                for file in ("math", "ocr"):
                    rows = [answer(i, float(i > 1), 30 if "lipo" in name else 60) for i in range(9)]
                    Pair(output, name, file).write(rows, {})
        return module.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(module.subprocess, "run", run)
    return seen


def make(runs, tmp_path, **changes):
    options = {"base": "org/base", "data": tmp_path / "data", "output": tmp_path / "table"}
    return table(runs, **options | changes)


@pytest.mark.parametrize("method", METHODS)
def test_the_file_is_a_merge_of_the_three_experts_by_each_method_at_its_defaults(method):
    config = load_config(MERGE).model_copy(update={"method": method})
    assert [expert.path.parent.name for expert in config.experts] == [
        "lipo-math",
        "lipo-structure",
        "lipo-ocr",
    ]
    config.method_settings()


def test_experts_of_one_algorithm_are_merged_and_the_rest_compared(runs, tmp_path, commands):
    page = make(runs, tmp_path, methods=["mean", "amm"], evaluation=["--max-tokens", "64"])
    merges = [command for command in commands if command[2] == "amm"]
    assert [merge_settings(command)["method"] for command in merges] == ["mean"] * 5 + ["amm"]
    steps = [f"{run}/checkpoints/global_step_5" for run in runs[:2]]
    assert merge_settings(merges[-1])["experts"] == json.dumps(steps)
    evaluation = commands[-1]
    models = [word.partition("=")[0] for word in evaluation[3 : evaluation.index("--data")]]
    assert models == ["base", *RUNS, "mean", "amm"]
    assert f"math={tmp_path}/data/math/val.parquet" in evaluation
    assert f"ocr={tmp_path}/data/ocr/val.parquet" in evaluation
    assert evaluation[-2:] == ["--max-tokens", "64"]
    text = page.read_text()
    assert "| model | math | ocr | average |" in text
    assert "lipo-math against grpo-math on math: +0.0 points" in text
    assert "50% of the tokens" in text
    assert (tmp_path / "table" / "table.png").read_bytes().startswith(b"\x89PNG")
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [(row["model"], row["kind"]) for row in rows] == [
        ("base", "base"),
        ("lipo-math", "expert"),
        ("lipo-ocr", "expert"),
        ("lipo-mixture", "baseline"),
        ("grpo-math", "baseline"),
        ("mean", "merge"),
        ("amm", "merge"),
    ]
    assert rows[0]["average"] == {"accuracy": pytest.approx(7 / 9), "mean_tokens": 60}


def test_merges_that_are_there_are_kept(runs, tmp_path, commands):
    make(runs, tmp_path, methods=["mean", "amm"])
    commands.clear()
    make(runs, tmp_path, methods=["mean", "amm", "ties"])
    assert [merge_settings(command)["method"] for command in commands[:-1]] == ["ties"]


def test_a_merge_of_other_inputs_in_the_way_is_named(runs, tmp_path, commands):
    make(runs, tmp_path, methods=["mean"])
    actor = runs[0] / "checkpoints" / "global_step_9" / "actor"
    actor.mkdir(parents=True)
    (actor / "model_world_size_1_rank_0.pt").touch()
    with pytest.raises(InputError, match="models/lipo-math was merged with experts .*step_9"):
        make(runs, tmp_path, methods=["mean"])


def test_a_folder_that_is_no_merge_is_named(runs, tmp_path, commands):
    (tmp_path / "table" / "models" / "lipo-math").mkdir(parents=True)
    with pytest.raises(InputError, match="models/lipo-math is in the way: it is no merge"):
        make(runs, tmp_path, methods=["mean"])


def test_a_failed_step_ends_it(runs, tmp_path, monkeypatch):
    failed = module.subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(module.subprocess, "run", lambda command: failed)
    with pytest.raises(module.StepFailed, match="the merge by mean failed"):
        make(runs, tmp_path, methods=["mean"])


@pytest.mark.parametrize(
    ("method", "says"),
    [("wuid", "Did you mean 'wudi'"), ("emr", "no method emr")],  # emr: a model for each expert
)
def test_a_method_that_is_none_of_the_tables_is_found_before_any_work(
    runs, tmp_path, commands, method, says
):
    with pytest.raises(InputError, match=says):
        make(runs, tmp_path, methods=[method])
    assert commands == []


def test_one_expert_is_nothing_to_merge(runs):
    with pytest.raises(InputError, match="two runs called grpo-<expert>; there are 1 among"):
        experts_of(runs, "grpo")


def test_intervals_are_shown_by_half_their_width(tmp_path):
    for file in ("math", "ocr"):
        Pair(tmp_path / "evaluation", "base", file).write(
            [answer(i, float(i % 2), 10) for i in range(100)], {}
        )
    page = write(tmp_path, [Entry("base", "base", "org/base")], {"math": "a", "ocr": "b"})
    assert "| base | 0.500 ± 0.096 · 10.0 ± 0.0 |" in page.read_text()

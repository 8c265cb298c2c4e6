"""Which checkpoint is taken, from logs as verl and EasyR1 write them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amm import InputError
from examples.tiny_r1v.pick import link, pick, validations


@pytest.fixture
def run(tmp_path: Path):
    """A function that makes a run's folder with checkpoints at these steps."""

    def make(*steps: int, last: int | None = None, framework: str = "verl") -> Path:
        checkpoints = tmp_path / "lipo-math" / "checkpoints"
        checkpoints.mkdir(parents=True)
        for step in steps:
            actor = checkpoints / f"global_step_{step}" / "actor"
            actor.mkdir(parents=True)
            (actor / "model_world_size_1_rank_0.pt").touch()
        last = max(steps, default=0) if last is None else last
        if framework == "verl":
            (checkpoints / "latest_checkpointed_iteration.txt").write_text(str(last))
        else:
            tracker = {"best_global_step": 1, "last_global_step": last}
            (checkpoints / "checkpoint_tracker.json").write_text(json.dumps(tracker))
        return checkpoints.parent

    return make


def verl(step, accuracy=None, tokens=20.0, **sources):
    """A line of verl's file logger; only some steps are validated."""
    data = {"response_length/mean": tokens, "critic/score/mean": 0.9}
    if accuracy is not None:
        sources["tiny_r1v/math"] = accuracy
    for source, value in sources.items():
        data |= {f"val-core/{source}/acc/mean@1": value, f"val-aux/{source}/reward/mean@1": 0.1}
    return {"step": step, "data": data}


def easyr1(step, accuracy=None, tokens=20.0):
    """A line of EasyR1's file logger."""
    row = {"step": step, "reward": {"overall": 0.8}, "response_length": {"mean": 99.0}}
    if accuracy is not None:
        row["val"] = {"reward_score": 0.5, "accuracy_reward": accuracy, "format_reward": 1.0}
        row["val_response_length"] = {"mean": tokens, "max": 64.0}
    return row


def log(path: Path, *rows, at: int = 1):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    os.utime(path, (at, at))


@pytest.mark.parametrize(("framework", "line"), [("verl", verl), ("easyr1", easyr1)])
def test_the_best_validation_wins(run, framework, line):
    folder = run(10, 20, 30, framework=framework)
    rows = [line(0, 0.9), line(10, 0.5), line(15), line(20, 0.8), line(30, 0.7)]
    log(folder / "metrics-from-0.jsonl", *rows)
    choice = pick(folder)
    assert choice.checkpoint == folder / "checkpoints" / "global_step_20"
    assert choice.reason.endswith("Step 20 has the best accuracy.")
    assert "0.8000    20.0  <" in choice.reason


@pytest.mark.parametrize(("framework", "line"), [("verl", verl), ("easyr1", easyr1)])
def test_of_equal_ones_the_shorter_answers_win(run, framework, line):
    folder = run(10, 20, 30, framework=framework)
    rows = [line(10, 0.8, 30), line(20, 0.8, 12), line(30, 0.8, 15)]
    log(folder / "metrics-from-0.jsonl", *rows)
    choice = pick(folder)
    assert choice.checkpoint.name == "global_step_20"
    assert "as good as 10, 30; its answers are the shortest" in choice.reason


def test_within_the_tolerance_shorter_answers_win(run):
    folder = run(10, 20)
    log(folder / "metrics-from-0.jsonl", verl(10, 0.80, 30), verl(20, 0.79, 12))
    assert pick(folder).checkpoint.name == "global_step_10"
    assert pick(folder, tolerance=0.02).checkpoint.name == "global_step_20"


def test_a_mixtures_accuracy_is_the_mean_over_its_sources(run):
    folder = run(10, 20)
    log(
        folder / "metrics-from-0.jsonl",
        verl(10, 0.9, **{"tiny_r1v/ocr": 0.1}),
        verl(20, 0.6, **{"tiny_r1v/ocr": 0.6}),
    )
    assert pick(folder).checkpoint.name == "global_step_20"


def test_of_a_step_that_was_run_twice_the_later_log_counts(run):
    folder = run(10, 20)
    log(folder / "metrics-from-10.jsonl", verl(20, 0.3), at=2)
    log(folder / "metrics-from-0.jsonl", verl(10, 0.5), verl(20, 0.9), at=1)
    assert pick(folder).checkpoint.name == "global_step_10"


def test_a_line_that_an_interruption_cut_is_left_out(run):
    folder = run(10)
    log(folder / "metrics-from-0.jsonl", verl(10, 0.5))
    with (folder / "metrics-from-0.jsonl").open("a") as file:
        file.write('{"step": 20, "da')
    assert list(validations(folder)) == [10]


def test_easyr1s_own_log_is_read_where_it_is_no_link(run):
    folder = run(10, 20, framework="easyr1")
    log(folder / "checkpoints" / "experiment_log.jsonl", easyr1(10, 0.9), easyr1(20, 0.5))
    assert pick(folder).checkpoint.name == "global_step_10"


def test_a_half_written_checkpoint_is_left_out(run):
    folder = run(10, 20, last=10)
    log(folder / "metrics-from-0.jsonl", verl(10, 0.5), verl(20, 0.9))
    choice = pick(folder)
    assert choice.checkpoint.name == "global_step_10"
    assert "Better, but without a checkpoint: step 20" in choice.reason


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([verl(10, 0.8), verl(20, 0.8)], "as good as 10; it is the later one"),
        ([verl(10), verl(20)], "no validation: the last checkpoint"),
        ([verl(5, 0.9), verl(15, 0.9)], "no checkpoint was validated"),
    ],
    ids=["equal in both", "without validation", "other steps validated"],
)
def test_where_nothing_tells_them_apart_the_last_is_taken_and_that_is_said(run, rows, says):
    folder = run(10, 20)
    log(folder / "metrics-from-0.jsonl", *rows)
    choice = pick(folder)
    assert choice.checkpoint.name == "global_step_20"
    assert says in choice.reason


def test_no_checkpoint_is_an_error_that_says_what_was_looked_for(run):
    with pytest.raises(InputError, match="no whole checkpoint.*global_step_N/actor"):
        pick(run())


def test_best_is_a_link_that_follows_the_choice(run):
    folder = run(10, 20)
    log(folder / "metrics-from-0.jsonl", verl(10, 0.9), verl(20, 0.5))
    assert link(folder, pick(folder)).resolve() == folder / "checkpoints" / "global_step_10"
    log(folder / "metrics-from-0.jsonl", verl(10, 0.4), verl(20, 0.5))
    assert link(folder, pick(folder)).resolve() == folder / "checkpoints" / "global_step_20"
    assert not os.path.isabs(os.readlink(folder / "best")), "a moved run keeps its link"


def test_a_folder_called_best_is_not_replaced(run):
    folder = run(10)
    (folder / "best").mkdir()
    with pytest.raises(InputError, match="best is no link"):
        link(folder, pick(folder))


def test_standard_output_is_the_path_alone(run):
    folder = run(10, 20)
    log(folder / "metrics-from-0.jsonl", verl(10, 0.9), verl(20, 0.5))
    result = subprocess.run(
        [sys.executable, "-m", "examples.tiny_r1v.pick", str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"{folder}/checkpoints/global_step_10\n"
    assert "Step 10 has the best accuracy." in result.stderr

"""The study's order of trials, what resumes and what is left: training and answers are made up."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from examples.evidence import study as module
from examples.evidence.results import Result
from examples.evidence.study import SIZES, Size, again, draw, phases, study
from examples.quickstart.tasks import TASKS
from examples.run_folder import SettingsDiffer, sole_launch

SIZE = Size(2, 6, ("grpo", "lipo", "kimi"), True, (1, 2), (4,))


@pytest.fixture
def trained(monkeypatch):
    """The names of the runs that were trained, in order; a model answers badly from kimi's 0.4."""
    runs = []

    def train(run, *, base, data, folder):
        assert (data / run.task / "train.parquet").exists()
        runs.append(run)
        (folder / "checkpoints").mkdir()
        (folder / "hydra").mkdir()
        row = {name: 1.0 for name in module.CURVE.values()}
        lines = [json.dumps({"step": step, "data": row}) for step in range(1, run.steps + 1)]
        (folder / "metrics-from-0.jsonl").write_text("\n".join(lines) + "\n")
        return folder / "checkpoints"

    def evaluate(models, data, output, budget, *options):
        (model,) = models
        collapsed = "weight=0.4" in " ".join(runs[-1].settings)
        (output / "evaluation" / model.name).mkdir(parents=True)
        for task in TASKS:
            count = len(pq.read_table(data / task / "val.parquet"))
            rows = [{"accuracy": float(not collapsed), "tokens": 9}] * count
            path = output / "evaluation" / model.name / f"{task}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "evaluate", evaluate)
    monkeypatch.setattr(module.amm, "merge", lambda *_, output, **__: output.mkdir())
    monkeypatch.setattr(module, "PICTURES", 4)
    return runs


def names(runs):
    return [run.name for run in runs]


def test_what_a_phase_finds_decides_the_next(trained, tmp_path):
    study(SIZE, tmp_path / "work", tmp_path / "results")
    assert names(trained) == [
        "tune_grpo_0",
        *("tune_lipo_0.03_0", "tune_lipo_0.1_0", "tune_kimi_0.1_0", "tune_kimi_0.4_0"),
        *("report_grpo_1", "report_lipo_0.03_1", "report_kimi_0.1_1"),
        *("report_grpo_2", "report_lipo_0.03_2", "report_kimi_0.1_2"),
        *("stress_grpo_1", "stress_lipo_0.03_1", "stress_kimi_0.1_1"),
        *("stress_grpo_2", "stress_lipo_0.03_2", "stress_kimi_0.1_2"),
        *("final_grpo_4", "stress_grpo_4", "final_lipo_0.03_4", "stress_lipo_0.03_4"),
        *("final_kimi_0.1_4", "stress_kimi_0.1_4"),
    ]
    assert {path.stem for path in (tmp_path / "results").iterdir()} == set(names(trained))


def test_a_trial_leaves_a_result_and_its_log_alone(trained, tmp_path):
    study(SIZE, tmp_path / "work", tmp_path / "results")
    (folder,) = (tmp_path / "work" / "trials").glob("tune_lipo_0.1_0")
    assert {path.name for path in folder.iterdir()} == {"metrics-from-0.jsonl", "lock"}
    result = Result.read(tmp_path / "results" / "tune_lipo_0.1_0.json")
    assert len(result.tokens) == 3 * SIZE.questions
    assert result.curve["reward"] == [1.0, 1.0]
    assert "+algorithm.lipo.boost=0.1" in result.settings["settings"]
    assert "data.seed=0" in result.settings["settings"]


def test_the_stress_is_twice_the_demos_learning_rate_and_nothing_else(trained, tmp_path):
    study(SIZE, tmp_path / "work", tmp_path / "results")
    settings = {run.name: run.settings for run in trained}
    train = Path(module.__file__).parents[1] / "quickstart/config/quickstart/train.yaml"
    rate = "actor_rollout_ref.actor.optim.lr"
    usual = OmegaConf.load(train).actor_rollout_ref.actor.optim.lr
    (added,) = set(settings["stress_kimi_0.1_1"]) - set(settings["report_kimi_0.1_1"])
    assert added.partition("=")[0] == rate and float(added.partition("=")[2]) == 2 * usual
    assert set(settings["report_kimi_0.1_1"]) < set(settings["stress_kimi_0.1_1"])


def test_a_trial_that_has_a_result_is_not_run_again(trained, tmp_path):
    study(SIZE, tmp_path / "work", tmp_path / "results")
    (tmp_path / "results" / "report_lipo_0.03_2.json").unlink()
    trained.clear()
    study(SIZE, tmp_path / "other", tmp_path / "results")
    assert names(trained) == ["report_lipo_0.03_2"]


def test_a_trial_that_another_process_works_on_is_waited_for(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module.time, "sleep", lambda _: released.set())
    released, held = threading.Event(), threading.Event()
    work, results = tmp_path / "work", tmp_path / "results"

    def hold():
        with sole_launch(work / "trials" / "tune_grpo_0"):
            held.set()
            released.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    study(SIZE, work, results)
    other.join()
    assert names(trained)[3:5] == ["tune_kimi_0.4_0", "tune_grpo_0"]


def test_a_folder_is_of_one_size(trained, tmp_path):
    study(SIZE, tmp_path, tmp_path / "results")
    with pytest.raises(SettingsDiffer, match="steps"):
        study(Size(3, 6, ("grpo",), False, (1,), ()), tmp_path, tmp_path / "results")


def test_one_trial_can_be_run_again(trained, tmp_path):
    again("report_kimi_0.4_2", SIZE, tmp_path / "work", tmp_path / "results")
    assert names(trained) == ["report_kimi_0.4_2"]
    with pytest.raises(SystemExit, match="no such trial. Did you mean report_kimi_0.4_2"):
        again("report_kimi_0.5_2", SIZE, tmp_path / "work", tmp_path / "results")


def test_pictures_of_all_tasks_are_mixed_and_seeds_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PICTURES", 4)
    draw(SIZE, tmp_path)
    mixed = [
        pq.read_table(tmp_path / f"train-{seed}" / "mixture" / "train.parquet").to_pylist()
        for seed in (0, 1)
    ]
    assert [row["ability"] for row in mixed[0]] == [task for task in TASKS for _ in range(4)]
    one, other = ({row["images"][0]["bytes"] for row in rows} for rows in mixed)
    assert not one & other


def test_the_small_study_tunes_nothing(tmp_path):
    (trials,) = phases(SIZES["small"], tmp_path)
    assert [trial.name for trial in trials] == [
        *("report_grpo_1", "report_lipo_0.03_1", "report_lipo-batch_0.03_1")
    ]


def test_the_command_explains_itself():
    command = [sys.executable, "-m", "examples.evidence.study", "--help"]
    root = Path(__file__).parents[3]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    assert "the same\ncommand resumes" in shown and "--only" in shown

"""The quickstart's report: what it gathers, and what its tables say."""

import json

import pytest

from examples.quickstart import report
from examples.quickstart.tasks import TASKS


@pytest.fixture
def finished(tmp_path):
    """A folder as a finished run leaves it, with figures that are easy to check."""
    for i, name in enumerate(report.MODELS):
        folder = tmp_path / "evaluation" / name
        folder.mkdir(parents=True)
        for j, task in enumerate(TASKS):
            figures = {"accuracy": 0.5 + 0.1 * j, "mean_tokens": 10.0 + i, "truncated": 0.25}
            (folder / f"{task}.json").write_text(json.dumps(figures | {"questions": 100}))
    for name in ("grpo-math", "lipo-math"):
        folder = tmp_path / "train" / name
        folder.mkdir(parents=True)
        rows = [
            {"step": step, "data": {"response_length/mean": 20.0, "critic/score/mean": 0.9}}
            for step in (1, 2)
        ]
        (folder / "metrics-from-0.jsonl").write_text("\n".join(map(json.dumps, rows)))
    report.write(tmp_path, {"steps": 2})
    return tmp_path


def test_results_hold_every_model_every_task_and_the_curves(finished):
    results = json.loads((finished / "results.json").read_text())
    assert list(results["models"]) == list(report.MODELS)
    for tasks in results["models"].values():
        assert list(tasks) == list(TASKS)
        assert all(figures["samples"] == 100 for figures in tasks.values())
        assert all(figures["truncated"] == 0.25 for figures in tasks.values())
    assert results["training"]["lipo-math"] == [
        {"step": step, "response_tokens": 20.0, "reward": 0.9} for step in (1, 2)
    ]


def test_table_averages_the_tasks(finished):
    text = (finished / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| base "))
    assert row == "| base | 0.500  10.0 | 0.600  10.0 | 0.700  10.0 | 0.600  10.0 |"


def test_comparison_is_lipo_over_grpo_on_the_shared_task(finished):
    text = (finished / "report.md").read_text()  # 12 tokens against 11
    assert "109% of the tokens at +0.0 points of accuracy (100 questions)" in text


def test_plots_are_pictures_and_nothing_half_written_is_left(finished):
    for name in ("training.png", "models.png"):
        assert (finished / name).read_bytes().startswith(b"\x89PNG")
    assert not [path for path in finished.iterdir() if ".tmp" in path.name]


def test_show_prints_the_table_and_the_comparison(finished, capsys):
    report.show(finished)
    printed = capsys.readouterr().out
    assert all(label in printed for label in report.MODELS.values())
    assert "LIPO against GRPO" in printed

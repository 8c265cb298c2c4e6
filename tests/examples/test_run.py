"""The quickstart's stages: what is kept, and what is refused."""

from pathlib import Path

import pytest

from examples.quickstart import run
from examples.quickstart.run import Settings
from examples.quickstart.stages import SettingsDiffer, keep_settings


def test_folder_of_other_settings_is_refused_before_any_work(tmp_path, monkeypatch):
    keep_settings(tmp_path, Settings(steps=5))
    monkeypatch.setattr(run, "write_splits", lambda *_, **__: pytest.fail("work was started"))
    with pytest.raises(SettingsDiffer, match=r"other settings .*\"steps\": 5.*--output"):
        run.quickstart(tmp_path, Settings(steps=6))


def test_finished_stages_are_not_done_again(tmp_path, monkeypatch):
    """With data, checkpoints and models in place, only what is missing is made."""
    settings = Settings(steps=1, train_examples=4, samples=2)
    done: list[str] = []

    def train(job, *, base: Path, data: Path, folder: Path) -> Path:
        assert (data / job.task / "train.parquet").exists()
        done.append(job.name)
        return folder / "checkpoints"

    def merge(base: Path, experts: list[Path], *, method: str, output: Path) -> None:
        done.append(output.name)
        output.mkdir(parents=True)

    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run.amm, "merge", merge, raising=False)
    monkeypatch.setattr(run, "evaluate", lambda models, *_: done.append(f"{len(models)} models"))
    monkeypatch.setattr(run.report, "write", lambda *_: None)
    monkeypatch.setattr(run.report, "show", lambda *_: None)
    trained = ["grpo-math", "lipo-math", "lipo-structure", "lipo-ocr"]

    run.quickstart(tmp_path, settings)
    assert done == [*trained, *trained, "mean", "task_arithmetic", "wudi", "amm", "9 models"]

    done.clear()
    (tmp_path / "models" / "wudi").rmdir()
    run.quickstart(tmp_path, settings)
    assert done == [*trained, "wudi", "9 models"]

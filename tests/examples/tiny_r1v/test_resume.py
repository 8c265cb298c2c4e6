"""From which step a run goes on, also after an interruption at the worst moment."""

import json

import pytest

from examples.tiny_r1v.launch.resume import LAST_FILE, TRACKER, last_step


def checkpoints(folder, framework, *steps):
    for step in steps:
        (folder / f"global_step_{step}").mkdir()
        (folder / f"global_step_{step}" / LAST_FILE[framework]).touch()
    return folder / TRACKER[framework]


@pytest.mark.parametrize("framework", TRACKER)
def test_a_new_run_starts_at_zero(tmp_path, framework):
    assert last_step(framework, tmp_path / "none") == 0


def test_the_trackers_of_both_frameworks_are_read(tmp_path):
    checkpoints(tmp_path, "verl", 20, 40).write_text("40")
    checkpoints(tmp_path, "easyr1").write_text(json.dumps({"last_global_step": 60}))
    assert (last_step("verl", tmp_path), last_step("easyr1", tmp_path)) == (40, 60)


@pytest.mark.parametrize("framework, cut", [("verl", ""), ("easyr1", '{"best_glo')])
def test_a_cut_tracker_is_written_again_from_the_whole_checkpoints(tmp_path, framework, cut):
    tracker = checkpoints(tmp_path, framework, 20, 100)
    (tmp_path / "global_step_120").mkdir()  # was being written
    tracker.write_text(cut)
    assert last_step(framework, tmp_path) == 100
    mended = tracker.read_text()
    assert (int(mended) if framework == "verl" else json.loads(mended)["last_global_step"]) == 100


def test_a_cut_tracker_without_a_whole_checkpoint_is_removed(tmp_path):
    tracker = checkpoints(tmp_path, "verl")
    tracker.write_text("")
    assert last_step("verl", tmp_path) == 0
    assert not tracker.exists()

"""From which step a run resumes, also after an interruption at the worst moment."""

import json

import pytest

from examples.tiny_r1v.launch.resume import LAST_FILE, TRACKER, last_step


def checkpoints(folder, framework, *steps):
    for step in steps:
        (folder / f"global_step_{step}").mkdir(exist_ok=True)
        (folder / f"global_step_{step}" / LAST_FILE[framework]).touch()
    return folder / TRACKER[framework]


@pytest.mark.parametrize("framework", TRACKER)
def test_a_new_run_starts_at_zero(tmp_path, framework):
    assert last_step(framework, tmp_path / "none") == 0


def test_the_trackers_of_both_frameworks_are_read(tmp_path):
    checkpoints(tmp_path, "verl", 20, 40).write_text("40")
    checkpoints(tmp_path, "easyr1", 60).write_text(json.dumps({"last_global_step": 60}))
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


@pytest.mark.parametrize(
    "damage",
    [
        lambda last: last.rmdir(),
        lambda last: None,  # without the file that comes last
        lambda last: (last / "data.pt").touch() or rank_file(last),
    ],
    ids=["gone", "half written", "a rank's shard gone"],
)
def test_a_tracker_that_names_no_whole_checkpoint_is_mended_and_that_is_said(
    tmp_path, capsys, damage
):
    tracker = checkpoints(tmp_path, "verl", 20)
    (last := tmp_path / "global_step_40").mkdir()
    tracker.write_text("40")
    damage(last)
    assert last_step("verl", tmp_path, mend=False) == 20
    assert (tracker.read_text(), capsys.readouterr().err) == ("40", "")
    assert last_step("verl", tmp_path) == 20
    assert tracker.read_text() == "20"
    assert capsys.readouterr().err.endswith(
        "names step 40, of which there is no whole checkpoint: resuming from step 20\n"
    )


def rank_file(folder):
    (folder / "actor").mkdir()
    (folder / "actor" / "model_world_size_2_rank_1.pt").touch()


def test_a_checkpoint_of_all_its_ranks_is_whole(tmp_path):
    checkpoints(tmp_path, "verl", 20).write_text("20")
    rank_file(tmp_path / "global_step_20")
    (tmp_path / "global_step_20" / "actor" / "model_world_size_2_rank_0.pt").touch()
    assert last_step("verl", tmp_path) == 20


@pytest.mark.parametrize("named", ["0", "-1", "40"])
def test_where_no_checkpoint_is_left_the_run_starts_anew_and_says_so(tmp_path, capsys, named):
    tracker = checkpoints(tmp_path, "verl")
    tracker.write_text(named)
    assert last_step("verl", tmp_path) == 0
    assert not tracker.exists()
    assert "starting anew" in capsys.readouterr().err


def test_a_run_resumes_from_whole_checkpoints_that_no_tracker_names(tmp_path, capsys):
    """An interruption came between the last checkpoint and its name."""
    tracker = checkpoints(tmp_path, "verl", 20, 40)
    assert last_step("verl", tmp_path) == 40
    assert (tracker.read_text(), capsys.readouterr().err) == ("40", "")

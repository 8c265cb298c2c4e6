"""The bench's order and what resumes, with real merges of experts that are hardly tuned."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from examples.evidence.merging import bench as module
from examples.evidence.merging import choice
from examples.evidence.merging.bench import KINDS, SIZES, Size, carry_out, phases, sets, undone
from examples.evidence.merging.grid import Merge
from examples.evidence.merging.rows import Row, Set, read
from examples.run_folder import SettingsDiffer

SIZE = Size((2,), 2, (("closings", "full"),), (0,), (10,), mixtures=(10,), reinforced=())


@pytest.fixture
def quick(monkeypatch):
    """Two methods, one choice, experts of one step; gives the rows that were made, in order."""
    made = []
    real = module.made

    def follow(row, *others):
        made.append(row)
        return real(row, *others)

    monkeypatch.setattr(module, "made", follow)
    monkeypatch.setitem(KINDS, "full", replace(KINDS["full"], steps=1, batch=2))
    monkeypatch.setattr(module, "MIXTURE_STEPS", 1)
    few = (Merge("task_arithmetic"), Merge("amm"))
    for where in (module, choice):
        monkeypatch.setattr(where, "PUBLISHED", few)
    monkeypatch.setattr(module, "WITHOUT", (Merge("amm", {"alpha": "uniform"}),))
    for where in (module, choice):
        monkeypatch.setattr(where, "choices", lambda: [Merge("amm", {"steps": 10})])
    monkeypatch.setattr(choice, "CHOICES", {"descent": ({"steps": 10},)})
    monkeypatch.setattr("examples.evidence.merging.grid.SCALES", (0.5,))
    return made


def test_each_phase_has_its_merges_and_the_same_command_resumes(quick, tmp_path, capsys):
    carry_out(SIZE, tmp_path / "work", tmp_path / "results")
    tuned = read(tmp_path / "results" / "tune_closings_full_0.jsonl")
    reported = read(tmp_path / "results" / "report_closings_full_10.jsonl")
    assert [(row.method, row.parameters) for row in tuned.values()] == [
        ("base", {}),
        ("experts", {}),
        ("task_arithmetic", {}),
        ("task_arithmetic", {"scale": 0.5}),
        ("amm", {}),
        ("amm", {"scale": 0.5}),
        ("amm", {"steps": 10}),
    ]
    methods = [(row.method, row.parameters) for row in reported.values()]
    assert methods[:6] == [
        *(("base", {}), ("experts", {}), ("mixture", {}), ("task_arithmetic", {}), ("amm", {})),
        ("amm", {"alpha": "uniform"}),
    ]
    for row in (*tuned.values(), *reported.values()):
        assert len(row.accuracy) == len(row.tokens) == 2
    assert "tune_closings_full_0: 7 models" in capsys.readouterr().out

    kept = [row for row in tuned.values() if row.parameters != {"steps": 10}]
    module.files.write(tmp_path / "results" / "tune_closings_full_0.jsonl", kept)
    quick.clear()
    carry_out(SIZE, tmp_path / "work", tmp_path / "results")
    assert [row.parameters for row in quick] == [{"steps": 10}]


def test_a_folder_is_of_one_size(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "phases", lambda *_: ())
    carry_out(SIZE, tmp_path / "work", tmp_path / "results")
    with pytest.raises(SettingsDiffer, match="questions"):
        carry_out(replace(SIZE, questions=3), tmp_path / "work", tmp_path / "results")


def test_reported_sets_are_of_other_seeds_and_have_those_of_reinforcement_learning():
    for size in SIZES.values():
        assert not set(size.tuning) & set(size.reported)
    reported = sets("report", SIZES["full"])
    assert [bench.seed for bench in reported if bench.family == "rl"] == [10, 11, 12]
    assert "rl" not in {bench.family for bench in sets("tune", SIZES["full"])}


def test_sets_of_three_skills_are_not_asked_for_five(tmp_path):
    (_, merges) = next(phases(SIZES["full"], tmp_path))
    wanted = undone(Set("report", "rl", "lipo", 10), merges, SIZES["full"], tmp_path)
    assert {row.experts for row in wanted} == {3}
    assert Row(3, "mixture") not in wanted


def test_the_command_explains_itself():
    command = [sys.executable, "-m", "examples.evidence.merging.bench", "--help"]
    root = Path(__file__).parents[4]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    assert "the same command resumes" in " ".join(shown.split()) and "--results" in shown

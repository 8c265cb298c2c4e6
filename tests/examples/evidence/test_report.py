"""The study's page is made from the results alone."""

import re

import pytest

from examples.evidence import report
from examples.evidence.report import RESULTS, replace
from tests.examples.evidence.results import result


def test_the_page_in_the_repository_is_what_its_results_make(page, make):
    before = page.read_text()
    make(report, RESULTS)
    assert page.read_text() == before


@pytest.fixture
def study(page, make, tmp_path):
    """A function that makes the page of (accuracy of 12, tokens) by arm and phase, of two seeds."""

    def run(**phases):
        for phase, arms in phases.items():
            for arm, (right, tokens) in arms.items():
                strength = None if arm == "grpo" else 0.1
                for seed in (1, 2):
                    result(phase, arm, strength, seed, right / 12, tokens).write(tmp_path / "r")
        result("tune", "grpo", seed=0).write(tmp_path / "r")
        make(report, tmp_path / "r")
        return page.read_text()

    return run


def test_tables_hold_what_the_results_say(study, tmp_path):
    text = study(
        report={"grpo": (11, 40), "lipo": (10, 10)}, stress={"grpo": (11, 40), "lipo": (8, 10)}
    )
    row, strained = re.findall(r"\| LIPO, boost 0.1 † (.*) \|\n", text)
    assert "| 0.667 |" in strained
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells[0] == "0.833 · 10.0" and cells[1] == "0.833"
    assert cells[2].startswith("-8.3 ± ")
    assert cells[3:5] == ["10.0", "25 ± 0 %"]
    assert cells[5:] == [f"{10 / 9:.2f}", "12.0", "collapsed"]
    assert "takes 25 ± 0 % of GRPO's tokens" in text
    assert (tmp_path / "evidence" / "frontier.png").stat().st_size > 10_000


def test_rivals_that_are_better_are_named(study):
    arms = {
        "grpo": (11, 40),
        "lipo": (11, 10),
        "kimi": (12, 11),
        "arora": (11, 9),
        "alp": (12, 12),
        "laser": (9, 8),
    }
    text = study(report=arms, stress=arms)
    (named,) = re.findall("Rivals that are sound .*: (.*)\\.\n", text)
    assert named == (
        "Kimi k1.5, weight 0.1 (+8.3 points, +1.00 tokens), "
        "Arora, alpha 0.1 (+0.0 points, -1.00 tokens)"
    )


@pytest.mark.parametrize(
    "lipo, said", [((11, 20), "is met."), ((11, 21), "is missed."), ((10, 10), "is missed.")]
)
def test_the_bar_is_of_tokens_and_accuracy(study, lipo, said):
    arms = {"grpo": (11, 40), "lipo": lipo}
    assert said in study(report=arms, stress=arms)


def test_a_guard_helps_if_it_is_better_in_one_condition(study):
    text = study(
        report={
            "grpo": (11, 40),
            "lipo": (10, 10),
            "lipo-floor": (10, 9),
            "lipo-pass": (10, 10),
            "lipo-clamp": (9, 9),
        },
        stress={
            "grpo": (11, 40),
            "lipo": (9, 10),
            "lipo-floor": (9, 10),
            "lipo-pass": (9, 10),
            "lipo-clamp": (9, 10),
        },
    )
    rows = dict(re.findall(r"\| LIPO, `(\w+)`, \w+ 0.1 \|[^|]* · [^|]*\|[^|]*\| (yes|no) \|", text))
    assert rows == {"std_floor": "yes", "min_pass_rate": "no", "sign_clamp": "no"}


def test_an_unfinished_study_says_so(page, make, tmp_path):
    result("tune", "grpo", seed=0).write(tmp_path / "r")
    make(report, tmp_path / "r")
    assert "trials done: 1 of phase `tune`" in page.read_text()


def test_a_page_without_its_markers_is_refused():
    with pytest.raises(ValueError, match="begin: results"):
        replace("# nothing", "results", [])

"""Rows: what is in them, and that the reward agrees with the prompt's form."""

import pytest

from examples.tiny_r1v.data.schema import PROMPT_SUFFIX, earns_the_reward, make_row
from lipo_verl.rewards import for_verl


def test_the_prompt_and_the_problem_are_the_same_text_with_one_picture():
    row = make_row("math", "s", "s/1", "Find x.", "3", "math", b"")
    (message,) = row["prompt"]
    assert message == {"role": "user", "content": row["problem"]}
    assert row["problem"] == f"<image>Find x.\n{PROMPT_SUFFIX}"
    assert row["answer"] == row["reward_model"]["ground_truth"] == "3"
    assert row["extra_info"]["reward_task"] == row["reward_model"]["task"] == "math"


@pytest.mark.parametrize(
    "expert, task, truth, right, wrong",
    [
        ("math", "math", "\\frac{1}{2}", "\\frac{1}{2}", "2"),
        ("math", "choice", "B", "B", "C"),
        ("structure", "exact", "$1,452.4", "1452.4 dollars", "1452"),
        ("structure", "relaxed", "100", "104", "106"),
        ("ocr", "ocr", "Route 66", "Route 66", "???"),
    ],
)
def test_the_row_itself_tells_verls_reward_how_to_score_it(expert, task, truth, right, wrong):
    row = make_row(expert, "s", "s/1", "Q?", truth, task, b"")

    def score(answer):
        response = f"<think>so it is</think>\\boxed{{{answer}}}"
        return for_verl.compute_score(
            row["data_source"],
            response,
            row["reward_model"]["ground_truth"],
            row["extra_info"],
            template="think_boxed",
        )["score"]

    assert score(right) == 1
    assert score(wrong) == pytest.approx(0.1)  # the form alone


@pytest.mark.parametrize("answer, task", [("no letter", "choice"), ("}{", "exact")])
def test_a_truth_that_cannot_earn_the_reward_is_recognised(answer, task):
    assert not earns_the_reward(answer, task)

"""The format reward."""

import pytest

from lipo_verl.rewards import templates


@pytest.mark.parametrize(
    ("response", "think_boxed", "think_answer"),
    [
        ("<think>a</think> so \\boxed{1}", 1.0, 0.0),
        ("\n<think>a</think>\n<answer>1</answer>\n", 0.0, 1.0),
        ("<think>a</think><answer>\\boxed{1}</answer>", 1.0, 1.0),
        ("<think>\\boxed{1}</think> 1", 0.0, 0.0),
        ("<think>a</think> \\boxed{}", 0.0, 0.0),
        ("<think> </think><answer>\\boxed{1}</answer>", 0.0, 0.0),
        ("<think>a</think><answer> </answer>", 0.0, 0.0),
        ("<think>a</think><answer>", 0.0, 0.0),
        ("<think>a</think></answer>", 0.0, 0.0),
        ("<think>a</think><answer>1</answer><answer>2</answer>", 0.0, 0.0),
        ("<think>a</think> x <answer>\\boxed{1}</answer>", 1.0, 0.0),
        ("<think>a</think></think><answer>\\boxed{1}</answer>", 0.0, 0.0),
        ("<think>a<think>b</think><answer>\\boxed{1}</answer>", 0.0, 0.0),
        ("x <think>a</think><answer>\\boxed{1}</answer>", 0.0, 0.0),
        ("<think>a", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_score(response, think_boxed, think_answer):
    assert templates.score(response, "think_boxed") == think_boxed
    assert templates.score(response, "think_answer") == think_answer

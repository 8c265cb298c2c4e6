"""The final answer of a response."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.rewards.extract import boxed, final_answer

nested = st.recursive(
    st.text("ab1+\\ ", max_size=4).map(lambda text: text.replace("\\", "\\{")),
    lambda inner: st.lists(inner, max_size=3).map(lambda parts: "{" + "".join(parts) + "}"),
    max_leaves=8,
)


@given(nested, st.text("ab{ ", max_size=8), st.text("ab} ", max_size=8))
def test_a_box_gives_its_content_whatever_braces_are_in_and_around_it(content, before, after):
    assert boxed(f"{before}\\boxed{{{content}}}{after}") == content.strip()


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{1} and \\boxed{2}", "2"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("\\boxed {5}", "5"),
        ("\\fbox{5}", "5"),
        ("\\boxed{\\left\\{1\\right.}", "\\left\\{1\\right."),
        ("\\boxed{1} then \\boxed{2", "1"),
        ("\\boxed{1", None),
        ("\\boxed 1", "1"),
        ("put it in \\boxed 3, so \\boxed -12.5.", "-12.5"),
        ("\\fbox B", "B"),
        ("put it in \\boxed please", None),
        ("no box", None),
    ],
)
def test_the_last_closed_box_counts(text, content):
    assert boxed(text) == content


@pytest.mark.parametrize(
    ("response", "how", "answer"),
    [
        ("so \\boxed{7}", "auto", "7"),
        ("<think>\\boxed{1}</think> so \\boxed{7}", "auto", "7"),
        ("<think>\\boxed{1}</think> nothing", "auto", None),
        ("<think>\\boxed{1}", "auto", None),
        ("<think>a</think><think>\\boxed{1}", "auto", None),
        ("<think>a</think><answer> 7 </answer>", "auto", "7"),
        ("<answer>it is \\boxed{7}</answer>", "auto", "7"),
        ("<answer>1</answer><answer>7</answer>", "auto", "7"),
        ("<answer>7", "auto", None),
        ("</answer>7<answer>", "auto", None),
        ("\\boxed{3} Answer: 4", "auto", "3"),
        ("Answer: 3. Answer: 4", "auto", "4"),
        ("**Final Answer:** 4", "auto", "4"),
        ("The answer is: 4", "auto", "4"),
        ("4", "auto", None),
        ("Answer： 4", "auto", "4"),
        ("答案：4", "auto", "4"),
        ("答案是4。", "auto", "4"),
        ("Answer: `4`", "auto", "4"),
        ("Answer: 4\n\nFor 2 + 2 is 4.", "auto", "4"),
        ("Answer:\n\n4\n5", "auto", "4\n5"),
        ("<answer>**4**</answer>", "auto", "4"),
        ("\\boxed{`4`}", "auto", "4"),
        ("The answer is 4. I hope it is correct.", "auto", "4"),
        ("The answer is 4.5", "auto", "4.5"),
        ("2 + 2 = 4\n#### 4", "auto", "4"),
        ("#### Step 1\nAnswer: 4", "auto", "4"),
        ("\\boxed{ }", "auto", None),
        ("\\boxed{3} Answer: 4", "marker", "4"),
        ("<answer>3</answer> \\boxed{4}", "boxed", "4"),
        ("<answer>3</answer> \\boxed{4}", "tags", "3"),
        ("<think>x</think> 4 \n", "whole", "4"),
        ("", "whole", None),
    ],
)
def test_final_answer(response, how, answer):
    assert final_answer(response, how) == answer


def test_a_degenerate_response_costs_no_time():
    start = time.process_time()
    for response in ("\\boxed{" * 20000, "answer" + " " * 50000, "<answer>" * 20000, "\\" * 50000):
        assert final_answer(response) is None
    assert time.process_time() - start < 1

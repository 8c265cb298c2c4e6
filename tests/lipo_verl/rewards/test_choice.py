"""Multiple choice: one option or none."""

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.rewards import choice
from lipo_verl.rewards.errors import TruthError

NAMED = [
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("(b)", "B"),
    ("[C]", "C"),
    ("**B**", "B"),
    ("\\text{B}", "B"),
    ("B. a red bar", "B"),
    ("B) a red bar", "B"),
    ("(B) a red bar", "B"),
    ("B: 5 cm", "B"),
    ("B. vitamin C.", "B"),
    ("The answer is B", "B"),
    ("The answer is (b).", "B"),
    ("the answer is b", "B"),
    ("the answer is A.", "A"),
    ("The answer is A because the bar is red", "A"),
    ("Answer: D", "D"),
    ("The correct answer is option D", "D"),
    ("I'm sure it is C", "C"),
    ("A. a dog", "A"),
    ("b. a red bar", "B"),
    ("B．红色", "B"),
    ("选C", "C"),
    ("故选 C。", "C"),
    ("答案是C", "C"),
    ("选项C", "C"),
    ("D. Both A and C", "D"),
    ("(D) Neither A nor B", "D"),
    ("D. All of these (A, B, C)", "D"),
    ("B. Figure A or C", "B"),
    ("C: A, then B", "C"),
    ("B) A > C", "B"),
    ("A. Only I and II", "A"),
    ("(B) 12 cm, not (A) 10 cm", "B"),
    ("The answer is D. A is incorrect.", "D"),
    ("\\mathbf{(B)}\\ 12", "B"),
    ("$B$", "B"),
    ("I choose C", "C"),
    ("Therefore C", "C"),
]
NONE = [
    "",
    "Because",
    "A cat",
    "I think it is red",
    "The answer is A dog",
    "T-shirt",
    "AB",
    "A or B",
    "A, B",
    "A/B",
    "(A) (B)",
    "A B C D",
    "The answer is A or B",
    "The answer is A, B",
    "A. a dog or B. a cat",
    "A. a dog or B.",
    "B, not A",
    "not B",
    "Not B",
    "NOT (B)",
    "Neither A nor B",
    "All except B",
    "It isn't B",
    "The answer is not B",
    "B is wrong",
    "(B) is incorrect",
    "rule out B",
    "Vitamin B",
    "Plan B",
    "不选B",
    "选A或B",
    "A. 5, B. 6",
    "A) and B)",
    "Both A and B",
]


@pytest.mark.parametrize(("answer", "letter"), NAMED)
def test_an_option_that_is_named_is_found(answer, letter):
    assert choice.letter(answer) == letter
    assert choice.score(answer, letter) == 1.0
    assert choice.score(answer, "ABCD".replace(letter, "")[0]) == 0.0


@pytest.mark.parametrize("answer", NONE)
def test_words_and_several_options_name_none(answer):
    assert choice.letter(answer) is None
    assert choice.score(answer, "B") == choice.score(answer, "A") == 0.0


def test_a_truth_may_carry_the_text_of_its_option():
    assert choice.score("B", "(B) a red bar") == 1.0


def test_a_truth_that_is_no_option_is_an_error():
    with pytest.raises(TruthError, match="26"):
        choice.score("B", "26")


@given(st.lists(st.text(string.ascii_letters, min_size=2), max_size=8).map(" ".join))
def test_no_letter_is_taken_out_of_a_word(words):
    assert choice.letter(words) is None


@given(st.sampled_from("ABCDEFGHJ"), st.sampled_from("ABCDEFGHJ"))
def test_naming_two_options_in_a_row_is_never_right(one, other):
    for joint in (" or ", ", ", "/", " and ", " & "):
        named = choice.letter(f"The answer is {one}{joint}{other}")
        assert named == (one if one == other else None)


def test_a_degenerate_answer_costs_no_time():
    start = time.process_time()
    choice.letter("The answer is A" + " ," * 5000)
    choice.letter("A or " * 5000)
    choice.letter("not A, " * 5000)
    choice.letter("(" * 20000)
    assert time.process_time() - start < 1

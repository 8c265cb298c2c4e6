"""Mathematical equivalence."""

import pytest

pytest.importorskip("math_verify")

from lipo_verl.rewards import maths
from lipo_verl.rewards.errors import TruthError


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("0.5", "1/2"),
        ("\\frac12", "0.5"),
        ("$\\frac{1}{2}$", "1/2"),
        ("50\\%", "0.5"),
        ("2^{1/2}", "\\sqrt{2}"),
        ("x+x+1", "2x+1"),
        ("1,234", "1234"),
        ("12\\text{ cm}", "12"),
        ("x=5", "5"),
        ("3,2", "2,3"),
        ("(1,2)", "( 1 , 2 )"),
        ("Yes.", "\\text{yes}"),
    ],
)
def test_equivalent_answers_match(answer, truth):
    assert maths.equivalent(answer, truth)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("3", "4"),
        ("3.14", "\\pi"),
        ("0.333", "1/3"),
        ("(2,1)", "(1,2)"),
        ("2x", "2y"),
        ("olleh", "hello"),
        ("sey", "yes"),
        ("((((", "3"),
        ("", "3"),
        ("1/2 or 3", "1/2"),
    ],
)
def test_other_answers_do_not_match(answer, truth):
    assert not maths.equivalent(answer, truth)


def test_a_truth_without_mathematics_is_an_error():
    with pytest.raises(TruthError, match="no mathematics"):
        maths.equivalent("3", "\\,")


def test_what_math_verify_raises_is_not_swallowed():
    with pytest.raises(ValueError, match="nan or zoo"):
        maths.equivalent("2/0", "1/0")

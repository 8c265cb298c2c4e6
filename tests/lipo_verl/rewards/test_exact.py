"""Exact match: what counts as the same form, and what does not."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.rewards import exact

SAME = [
    ("1,234.50 kg", "1234.5kg"),
    ("1,234,567", "1234567"),
    ("1\\,000", "1{,}000"),
    ("050", "50.0"),
    (".5", "0.5"),
    ("-0", "0"),
    ("−5", "-5"),
    ("1.5e3", "1500"),
    ("50 %", "50\\%"),
    ("50 percent", "50%"),
    ("$1,000", "1000 dollars"),
    ("$\\$5$", "$5.00"),
    ("30^\\circ", "30 degrees"),
    ("Paris.", "paris"),
    ("The Eiffel  Tower", "eiffel tower"),
    ('"yes"', "Yes."),
    ("\\text{Yes}", "yes"),
    ("\\mathrm{\\textbf{B}}", "b"),
    ("$\\left(1, 2\\right)$", "(1, 2)"),
    ("**12**", "12"),
    ("１２", "12"),
    ("a", "A"),
    ("–5", "-5"),
    ("10 000", "10000"),
    ("5 square meters", "5 m^2"),
    ("90 kilometers per hour", "90 km/h"),
    ("3 tickets", "3 ticket"),
    ("28 pct", "28%"),
    ("$1.5 million", "1,500,000 dollars"),
    ("2.5万", "25000"),
    ("**12**.", "12"),
    ("\\dfrac{9}{7}", "\\frac{9}{7}"),
]
DIFFERENT = [
    ("1,23", "123"),
    ("12,34", "1234"),
    ("1.234", "1234"),
    ("5 kg", "5"),
    ("5 kg", "5 g"),
    ("$5", "€5"),
    ("50%", "0.5"),
    ("5 million", "5"),
    ("5 m^2", "5 m"),
    ("5 m^2", "5 m^3"),
    ("10 00", "1000"),
    ("10²", "102"),
    ("12", "21"),
    ("theatre", "atre"),
    ("vitamin a", "vitamin"),
    ("123456789012345678901234567890.1", "123456789012345678901234567890.2"),
    ("", "."),
    ("", ""),
]


@pytest.mark.parametrize(("answer", "truth"), SAME)
def test_two_ways_of_writing_the_same_answer_match(answer, truth):
    assert exact.score(answer, truth) == exact.score(truth, answer) == 1.0


@pytest.mark.parametrize(("answer", "truth"), DIFFERENT)
def test_different_answers_do_not_match(answer, truth):
    assert exact.score(answer, truth) == exact.score(truth, answer) == 0.0


numbers = st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**9))


@given(numbers)
def test_a_number_survives_every_way_of_formatting_it(number):
    for text in (f"{number}", f"{number:,}", f"{number:.6f}", f"$ {number} $", f"{number}."):
        quantity = exact.quantity(text)
        assert quantity == exact.Quantity(number, "")
        assert Decimal(str(quantity)) == number


@given(numbers, st.sampled_from(["kg", "m²", "%", "km/h", "miles"]))
def test_a_unit_may_touch_its_number_or_not(number, unit):
    assert exact.normalise(f"{number:,} {unit}") == exact.normalise(f"{number}{unit}")
    assert exact.quantity(f"{number} {unit}") == exact.Quantity(number, unit)


@given(st.text(max_size=40), st.text(max_size=40))
def test_matching_is_symmetric_and_agrees_with_the_normal_form(a, b):
    assert exact.score(a, b) == exact.score(b, a)
    assert exact.score(a, a) == float(exact.normalise(a) != "")


def test_an_exponent_cannot_fill_the_memory():
    assert exact.quantity("1e999999999") is None


def test_a_unit_of_several_lines_is_none_that_is_known():
    assert exact.unit("m\ns") == "m\ns"

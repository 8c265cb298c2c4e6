"""Mathematical equivalence."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


SAME = {
    "units": [
        (r"\frac{2}{3}\text{ hours}", "2/3"),
        ("7", "7 kg"),
        (r"9\pi\,\mathrm{cm}^2", "9\\pi square centimeters"),
        (r"4\sqrt{5}\text{ units}", r"4\sqrt{5}"),
        ("30 tickets", "30"),
        ("8 m/s", "8"),
        ("21个", "21"),
        (r"21\text{ red marbles}", "21"),
        ("18 months", "18"),
        ("-4 °C", "-4"),
        ("6厘米", "6 cm"),
        ("45", "45^{\\circ}"),
        (r"\$1,250", "1250"),
        ("USD 1250", "US$1,250"),
        ("16π cm²", r"16\pi"),
        ("2.5 million", "2500000"),
        ("110_2", "110₂"),
        ("110", "110_2"),
    ],
    "percentages": [
        ("36", "36\\%"),
        ("0.36", "36 percent"),
        ("36\\%", "\\frac{9}{25}"),
        ("36 pct", "36\\%"),
    ],
    "mixed numbers": [
        ("3 1/4", "13/4"),
        ("-3\\frac14", "-3.25"),
        ("3¼", "3.25"),
        ("¾", "0.75"),
    ],
    "powers of ten": [
        ("2.4 × 10⁶", "2400000"),
        ("2.4x10^6", "2400000"),
        (r"2.4\cdot10^{-3}", "0.0024"),
        ("2.4e-3", r"2.4\times 10^{-3}"),
    ],
    "Unicode and plain notation": [
        ("3√5", r"3\sqrt{5}"),
        ("√(x+1)", r"\sqrt{x+1}"),
        ("sqrt(7)/2", r"\frac{\sqrt{7}}{2}"),
        ("3pi/2", r"\frac{3\pi}{2}"),
        ("2**5", "32"),
        ("y³ − 1", "y^3-1"),
        ("cos(θ)", r"\cos\theta"),
        ("−∞", "-infinity"),
        ("4·3", "12"),
        ("2.0 - 1.0i", "2 - i"),
        ("i^2", "-1"),
    ],
    "intervals and inequalities": [
        ("x ≥ 4", r"[4, \infty)"),
        (r"(-\infty, 4)", "x < 4"),
        ("-1 < t < 2.5", "(-1, 2.5)"),
        ("x∈[2,5]", "[2,5]"),
        (r"x \in [2,5]", r"2 \le x \le 5"),
        (r"[2,5]", r"2 \\le x \\le 5"),
        (r"(-\infty,0)\cup(3,\infty)", r"x<0 \text{ or } x>3"),
        ("4 < x", "x > 4"),
    ],
    "lists and sets": [
        ("4, 9 and 2", "2, 4, 9"),
        (r"\{2,4\}", "4, 2"),
        ("y = 4 or y = 2", "2, 4"),
        ("±4", "4, -4"),
        (r"3 \pm \sqrt{2}", r"3-\sqrt{2}, 3+\sqrt{2}"),
        ("(2.5, 1)", r"(\frac52, 1)"),
        (r"\{(5,6),(2,3)\}", "(2,3), (5,6)"),
        ("A ∪ B", r"A \cup B"),
    ],
    "equations": [
        ("k = 12", "12"),
        (r"k \approx 12", "12"),
        ("g(3) = 12", "12"),
        (r"\text{Perimeter} = 12\text{ cm}", "12"),
        ("5 + 7 = 12", "12"),
        (r"\sum_{k=1}^{4} k", "10"),
        ("y = 3x - 6", "6x - 2y = 12"),
    ],
    "decimals": [
        ("0.142857", "1/7"),
        (r"0.1\overline{6}", "1/6"),
        ("2.6457513", r"\sqrt{7}"),
        ("80658175170943878571660636856403766975289505440883277824000000000000", "52!"),
    ],
}
DIFFERENT = {
    "only a part is right": [
        ("3", "3√5"),
        ("3√7", "3√5"),
        ("4", "4×10⁵"),
        ("7", "7½"),
        ("7", "7–9"),
        ("7–9", "7"),
        ("2:5", "2:7"),
        ("6**2", "6"),
        ("3", "3⁻¹"),
        ("7?8", "7"),
        ("7|8", "7"),
        ("7 8", "15"),
        ("3 12/5", "3"),
        (r"7 \begin{y}", "7"),
        (r"2, 4, \ldots, 2n", r"2, 4, 6, \ldots, 4n"),
        (r"5\ldots", "5"),
    ],
    "units": [
        ("7 cm", "7 m"),
        ("7 cm^2", "7 cm"),
        ("3 hours", "3 minutes"),
        (r"\$7", "€7"),
        ("7x", "7"),
        ("7m", "7"),
        ("7 thirds", "7"),
        (r"7\text{ dozen}", "7"),
        ("7 millions", "7"),
        ("7 million", "7"),
        ("2万", "2"),
        ("31_8", "31_9"),
        ("5.2\\%", "52\\%"),
        ("36", "0.36"),
        ("60^\\circ", "45^\\circ"),
    ],
    "small values": [
        (r"\frac{1}{1500!}", r"\frac{1}{1502!}"),
        (r"2^{-90}", r"2^{-91}"),
        ("3e-8", "4e-8"),
        ("1e-9", "0"),
        (r"\frac{1}{3\cdot 10^{9}}", r"\frac{1}{4\cdot 10^{9}}"),
    ],
    "decimals": [
        ("6.0000001", "6"),
        ("0.142", "1/7"),
        ("66.7", r"\frac{200}{3}"),
        (r"\frac{355}{113}", r"\pi"),
    ],
    "order and ends": [
        ("(5,2)", "(2,5)"),
        ("(5,2)", "(7,3)"),
        (r"\{2,5\}", "(2,5)"),
        ("[2,5]", "(2,5)"),
        ("2, 5", "2, 5, 6"),
        ("x > 4", "x \\ge 4"),
        (r"x<0 \text{ and } x>3", r"x<0 \text{ or } x>3"),
        ("3x - 1 < 8", "(-\\infty, 3)"),
        ("4", "\\pm 4"),
    ],
    "equations": [
        ("7 = 8", "8"),
        ("m = 2k", "2"),
        ("3", "4x + y = 3"),
        ("y = 5", "x = 5"),
        ("x = 1, y = 2", "x = 2, y = 1"),
    ],
    "what only looks like a sum": [
        ("7:00", "12:00"),
        ("3:45", "\\frac{1}{15}"),
        ("2021-03-04", "2014"),
        ("triangle", "integral"),
        ("是", "否"),
    ],
}


def cases(kinds):
    return [pytest.param(*pair, id=f"{kind}: {pair}") for kind in kinds for pair in kinds[kind]]


@pytest.mark.parametrize(("answer", "truth"), cases(SAME))
def test_the_same_value_matches_however_it_is_written(answer, truth):
    assert maths.equivalent(answer, truth)


@pytest.mark.parametrize(("answer", "truth"), cases(DIFFERENT))
def test_another_value_does_not_match_whatever_it_shares(answer, truth):
    assert not maths.equivalent(answer, truth)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(-99, 99), st.integers(1, 99), st.sampled_from(["", " cm", "\\text{ kg}", "^\\circ"])
)
def test_fractions_match_by_value_alone_with_or_without_a_unit(over, under, unit):
    for other in (over, over + 1):
        same = maths.equivalent(f"\\frac{{{2 * over}}}{{{2 * under}}}{unit}", f"{other}/{under}")
        assert same == (other == over)


def test_a_truth_without_mathematics_is_an_error():
    with pytest.raises(TruthError, match="no mathematics"):
        maths.equivalent("3", "\\,")


def test_what_math_verify_raises_is_not_swallowed():
    with pytest.raises(ValueError, match="nan or zoo"):
        maths.equivalent("2/0", "1/0")

"""Ways of writing that every task takes for the same."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.rewards import forms


@pytest.mark.parametrize(
    ("text", "levelled"),
    [
        (r"\text{EXIT}", "EXIT"),
        (r"\textbf{\mathrm{EXIT} 5}", "EXIT 5"),
        (r"\text{a {b} c}", "a {b} c"),
        (r"\frac{\text{a}}{b}", r"\frac{a}{b}"),
        (r"\text{open", r"\text{open"),
        (r"20\% off, \$4 \& more \#1 a\_b", "20% off, $4 & more #1 a_b"),
        (r"\left( 1,\, 2 \right)", "( 1, 2 )"),
        (r"1\,000 and 2{,}000 and 3,\! 000", "1,000 and 2,000 and 3,000"),
        (r"90^{\circ}", "90°"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"first\\second", "first second"),
        (r"\begin{pmatrix}1 \\ 2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}"),
        (r"\(5\)", "5"),
        ("$5$", "5"),
        ("$5 and $6", "$5 and $6"),
        ("（１，２）：Ａ", "(1,2):A"),
        ("5–6 −7", "5-6 -7"),
        ("“it’s”", '"it\'s"'),
        ("10²", "10²"),
        (" a \n\t b ", "a b"),
    ],
)
def test_writing_is_levelled(text, levelled):
    assert forms.level(text) == levelled


@given(st.text("ab{}\\ ", max_size=30))
def test_wrappers_go_and_other_braces_stay(text):
    plain = text.replace("\\", "")
    balanced = plain if plain.count("{") == plain.count("}") else "a"
    if all(balanced[:end].count("{") >= balanced[:end].count("}") for end in range(len(balanced))):
        assert forms.level(f"\\text{{{balanced}}}") == forms.level(balanced)


def test_time_grows_with_the_length_however_deep_the_nesting():
    start = time.process_time()
    assert forms.level("\\text{" * 20_000 + "5" + "}" * 20_000) == "5"
    for text in ("\\text{" * 20_000, "{" * 50_000, "$" * 50_000, "\\left" * 20_000):
        forms.level(text)
    assert time.process_time() - start < 2

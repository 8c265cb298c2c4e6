"""Relaxed accuracy of charts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_verl.rewards import relaxed


@pytest.mark.parametrize(
    ("answer", "truth", "score"),
    [
        ("105", "100", 1.0),
        ("95", "100", 1.0),
        ("105.1", "100", 0.0),
        ("94.9", "100", 0.0),
        ("-100", "100", 0.0),
        ("1,050", "1000", 1.0),
        ("0.0", "0", 1.0),
        ("0.001", "0", 0.0),
        ("51%", "50%", 1.0),
        ("50%", "50", 1.0),
        ("50%", "0.5", 1.0),
        ("0.5", "50%", 1.0),
        ("50", "50%", 1.0),
        ("5000", "50%", 0.0),
        ("$51", "50", 1.0),
        ("$51", "€50", 0.0),
        ("5 kg", "5 g", 0.0),
        ("5 million", "5", 0.0),
        ("5.1 million", "5 million", 1.0),
        ("5 or 6", "5", 0.0),
        ("Red", "red", 1.0),
        ("red", "blue", 0.0),
        ("nan", "5", 0.0),
        ("inf", "5", 0.0),
    ],
)
def test_score(answer, truth, score):
    assert relaxed.score(answer, truth) == score


@given(st.integers(1, 10**9), st.integers(-200, 200))
def test_five_percent_is_the_limit(truth, per_mille):
    answer = f"{truth * (1000 + per_mille) / 1000:.9f}"
    assert relaxed.score(answer, str(truth)) == float(abs(per_mille) <= 50)

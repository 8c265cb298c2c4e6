"""What counts as a truth, and what is an error."""

import math

import numpy as np
import pytest

from lipo_verl.rewards import truths
from lipo_verl.rewards.errors import TruthError


@pytest.mark.parametrize(
    ("truth", "texts"),
    [
        ("7", ["7"]),
        (7, ["7"]),
        (np.str_("7"), ["7"]),
        (np.array(7), ["7"]),
        (np.float32(0.1), ["0.1"]),
        (True, ["True"]),
        (["7", "seven"], ["7", "seven"]),
        (("7", 8), ["7", "8"]),
        (np.array([7, 8]), ["7", "8"]),
        ((each for each in ["7"]), ["7"]),
        (["7", ""], ["7"]),
        (["7", None, math.nan], ["7"]),
        ("<answer> 7 </answer>", ["7"]),
        (r"so \boxed{7}", ["7"]),
        ("3 + 4 = 7\n#### 7", ["7"]),
        ("Question: 7? Answer: 8", ["Question: 7? Answer: 8"]),
    ],
)
def test_truths_are_texts(truth, texts):
    assert truths.texts(truth) == texts


@pytest.mark.parametrize(
    "truth",
    [
        None,
        "",
        " \n",
        [],
        [None, ""],
        math.nan,
        np.float32("nan"),
        [math.nan],
        np.datetime64("NaT"),
    ],
)
def test_a_missing_truth_is_an_error(truth):
    with pytest.raises(TruthError, match="is empty"):
        truths.texts(truth)


@pytest.mark.parametrize(
    ("truth", "kind"),
    [
        (b"7", "bytes"),
        ([b"7"], "bytes"),
        ({"target": "7"}, "dict"),
        ([["7"], ["8"]], "list"),
        (np.array([["7"], ["8"]]), "ndarray"),
    ],
)
def test_what_is_neither_text_nor_number_is_an_error_that_names_it(truth, kind):
    with pytest.raises(TruthError, match=f"holds {kind}; it must be a text"):
        truths.texts(truth)


def test_what_pandas_writes_for_a_missing_value_is_missing():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TruthError, match="is empty"):
        truths.texts([pandas.NA, pandas.NaT])

"""Which questions are for long answers: the cases of the definition."""

import math

import pytest

from amm.calibration.patterns import gain, labelled
from amm.calibration.questions import Answer


def answers(accuracies, tokens):
    return [Answer("", tokens, accuracy) for accuracy in accuracies]


@pytest.mark.parametrize(
    ("long", "short", "expected"),
    [
        # Δacc = 1 − 0.5 − 1/8, Δlen = (40 − 10)/10
        (answers([1, 1, 1, 1], 40), answers([1, 1, 0, 0], 10), 0.375 / 3),
        # no better: Δacc = −1/8
        (answers([1, 1, 1, 1], 40), answers([1, 1, 1, 1], 10), -0.125 * 3 / 10),
        # better by less than half an answer of k
        (answers([1, 1, 1, 0.25], 40), answers([1, 1, 1, 0], 10), (0.0625 - 0.125) * 3 / 10),
        (answers([1, 1], 10), answers([1, 0], 10), math.inf),
        (answers([0, 0], 40), answers([1, 1], 10), None),
        (answers([1, 1], 40), answers([0, 0], 10), None),
        (answers([1, 1], 10), answers([1, 1], 11), None),
    ],
)
def test_gain_is_as_defined(long, short, expected):
    found = gain(long, short)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_labels_take_those_that_say_most_of_both_kinds():
    right, half = answers([1, 1], 20), answers([1, 0], 10)
    long = {0: right, 1: answers([1, 1], 40), 2: right, 3: answers([0, 0], 9), 5: right}
    short = {0: half, 1: half, 2: answers([1, 1], 5), 3: half, 4: half, 5: answers([1, 1], 10)}
    assert labelled(long, short, 9) == {0: "long", 1: "long", 2: "short", 5: "short"}
    assert labelled(long, short, 1) == {0: "long", 2: "short"}

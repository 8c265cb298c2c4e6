"""Relaxed accuracy of chart questions: numbers may be off by 5 %, everything else is exact.

Source: ChartQA (arXiv 2203.10244), which takes the tolerance from PlotQA. [V] The reading of
percentages and units is ours. [ours]
"""

from decimal import Decimal

from lipo_verl.rewards import exact

TOLERANCE = Decimal("0.05")

_MAY_BE_LEFT_OUT = [{"", sign} for sign in "%$€£¥°"]


def score(answer: str, truth: str) -> float:
    """1.0 for a number within 5 % of the truth's or an exact match, else 0.0.

    A truth of 0 must be met exactly. Units must agree, except that a percent, currency or degree
    sign may be missing on either side; `50%` then agrees with 50 and with 0.5.
    """
    if exact.score(answer, truth):
        return 1.0
    given, wanted = exact.quantity(answer), exact.quantity(truth)
    if given is None or wanted is None:
        return 0.0
    if given.unit != wanted.unit and {given.unit, wanted.unit} not in _MAY_BE_LEFT_OUT:
        return 0.0
    pairs = exact.readings(given.value, given.unit, wanted.value, wanted.unit)
    return float(any(abs(a - b) <= TOLERANCE * abs(b) for a, b in pairs))

"""Which questions want a long answer, and which a short one: RPAM's labels (arXiv 2601.03506)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from amm.calibration.questions import Answer

Pattern = Literal["long", "short"]


def gain(long: Sequence[Answer], short: Sequence[Answer]) -> float | None:
    """What the long answer to a question gains; above 0 the question is one for long answers.

        Δacc = acc_L − acc_S − 1/(2k),   Δlen = (len_L − len_S)/len_S                        [C]
        gain = Δacc/Δlen where Δacc > 0, else Δacc · Δlen/10                                 [C]

    Args:
        long: answers of the long model.
        short: k answers of the short one.

    Returns:
        None where either is never right or the short one's are longer [C].
    """
    right_long, right_short = (_mean([a.accuracy for a in each]) for each in (long, short))
    long_length, short_length = (_mean([a.tokens for a in each]) for each in (long, short))
    if not right_long or not right_short or short_length > long_length:
        return None
    accuracy = right_long - right_short - 1 / (2 * len(short))
    length = (long_length - short_length) / short_length
    if accuracy > 0:
        return accuracy / length if length else float("inf")
    return accuracy * length / 10


def labelled(
    long: Mapping[int, Sequence[Answer]], short: Mapping[int, Sequence[Answer]], per_class: int
) -> dict[int, Pattern]:
    """Row → label, of the questions that both models answered and that say most.

    Args:
        long: row → answers of the long model.
        short: row → answers of the short one.
        per_class: at most so many of each label, those of the largest |gain| first [I].
    """
    gains = {row: gain(long[row], short[row]) for row in sorted(long.keys() & short.keys())}
    known = {row: value for row, value in gains.items() if value is not None}
    ranked = sorted(known, key=lambda row: -abs(known[row]))
    wants_long = [row for row in ranked if known[row] > 0][:per_class]
    wants_short = [row for row in ranked if known[row] <= 0][:per_class]
    labels: dict[int, Pattern] = dict.fromkeys(wants_long, "long")
    return labels | dict.fromkeys(wants_short, "short")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

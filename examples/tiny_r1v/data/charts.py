"""Questions about ChartGalaxy's infographic charts, made from the table behind each.

ChartGalaxy publishes pictures and tables, but neither the questions nor the prompts of its paper.
The kinds of question are those of the chart datasets that it cites (lookup, extremum, comparison,
difference); the wording is ours. [ours]
"""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from examples.tiny_r1v.data.errors import Dropped

Pick = Callable[[str, int], int]
"""``pick(name, n)``: a seeded number below n."""

KINDS = ("lookup", "highest", "lowest", "higher", "difference")


def ask(data: Any, kind: str, pick: Pick) -> tuple[str, str, str]:
    """A question about a chart, its answer, and the reward's task.

    data: a chart's ``data.json``: ``columns``, each with ``name``, ``data_type`` and ``role``
          (x, y, group), and ``data``, a list of rows keyed by column name
    kind: one of KINDS

    Raises Dropped where the table has not one value for each mark, or the question has no clear
    answer.
    """
    try:
        columns, rows = data["columns"], data["data"]
        x, y = _column(columns, "x"), _column(columns, "y")
        group = next((c["name"] for c in columns if c.get("role") == "group"), None)
        marks = {(str(row[x]), str(row[group]) if group else ""): _number(row[y]) for row in rows}
    except (KeyError, TypeError, AttributeError, StopIteration):
        raise Dropped("chart whose table has not the fields of a chart") from None
    if len(marks) != len(rows):
        raise Dropped("chart with several values for a mark")
    series = sorted({name for _, name in marks})
    chosen = series[pick("series", len(series))]
    values = {label: value for (label, name), value in marks.items() if name == chosen}
    if len(values) < 2:
        raise Dropped("chart with a single mark")
    y_of = f"{y}" + (f" of {chosen}" if chosen else "")
    label = sorted(values)[pick("mark", len(values))]
    other = sorted(set(values) - {label})[pick("other", len(values) - 1)]
    if kind == "lookup":
        return f"What is the {y_of} for {label}?", _plain(values[label]), "relaxed"
    if kind == "higher":
        if values[label] == values[other]:
            raise Dropped("chart question with a tie")
        answer = "Yes" if values[label] > values[other] else "No"
        question = f"Is the {y_of} for {label} higher than for {other}? Answer yes or no."
        return question, answer, "exact"
    if kind == "difference":
        answer = _plain(abs(values[label] - values[other]))
        return f"By how much do {label} and {other} differ in {y_of}?", answer, "relaxed"
    extreme = (max if kind == "highest" else min)(values.values())
    best = [name for name, value in values.items() if value == extreme]
    if len(best) > 1:
        raise Dropped("chart question with a tie")
    return f"Which {x} has the {kind} {y_of}?", best[0], "exact"


def _column(columns: list[dict[str, Any]], role: str) -> str:
    return next(column["name"] for column in columns if column["role"] == role)


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Dropped("chart with a value that is no number")
    return Decimal(str(value))


def _plain(value: Decimal) -> str:
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text

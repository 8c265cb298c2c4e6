"""Questions about ChartGalaxy's charts, against answers worked out another way."""

import re

import pytest

from examples.tiny_r1v.data import charts
from examples.tiny_r1v.data.errors import Dropped

VALUES = {"Chile": 12.5, "Ghana": 30, "Nepal": 0.1}


def table(values=VALUES, **column):
    return {
        "columns": [
            {"name": "Country", "data_type": "categorical", "role": "x"},
            {"name": "Share", "data_type": "numerical", "role": "y"} | column,
        ],
        "data": [{"Country": name, "Share": value} for name, value in values.items()],
    }


def picks(**chosen):
    return lambda name, n: chosen.get(name, 0) % n


def test_a_lookup_gives_the_value_as_it_is_written():
    question, answer, task = charts.ask(table(), "lookup", picks(mark=0))
    assert (question, answer, task) == ("What is the Share for Chile?", "12.5", "relaxed")


@pytest.mark.parametrize("kind, answer", [("highest", "Ghana"), ("lowest", "Nepal")])
def test_an_extremum_gives_the_label(kind, answer):
    assert charts.ask(table(), kind, picks()) == (
        f"Which Country has the {kind} Share?",
        answer,
        "exact",
    )


@pytest.mark.parametrize("mark, other", [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)])
def test_a_comparison_is_true_of_the_two_that_it_names(mark, other):
    question, answer, _ = charts.ask(table(), "higher", picks(mark=mark, other=other))
    a, b = re.search(r"for (\w+) higher than for (\w+)\?", question).groups()
    assert a != b
    assert answer == ("Yes" if VALUES[a] > VALUES[b] else "No")


def test_a_difference_is_exact_in_decimal():
    _, answer, _ = charts.ask(table({"a": 0.3, "b": 0.1}), "difference", picks())
    assert answer == "0.2"


def test_a_series_is_named_where_there_are_several():
    data = table()
    data["columns"].append({"name": "Sex", "data_type": "categorical", "role": "group"})
    data["data"] = [
        {"Country": country, "Share": share, "Sex": sex}
        for country, sex, share in (("A", "men", 1), ("A", "women", 9), ("B", "men", 2))
    ] + [{"Country": "B", "Share": 3, "Sex": "women"}]
    question, answer, _ = charts.ask(data, "highest", picks(series=1))
    assert (question, answer) == ("Which Country has the highest Share of women?", "A")


@pytest.mark.parametrize(
    "data, kind, reason",
    [
        (table({"a": 1, "b": 1}), "highest", "tie"),
        (table({"a": 1, "b": 1}), "higher", "tie"),
        (table({"a": 1}), "lookup", "single mark"),
        (table({"a": 1, "b": None}), "lookup", "no number"),
        (table({"a": 1, "b": float("nan")}), "lookup", "no number"),
        (table(role="z"), "lookup", "fields of a chart"),
        ({"columns": []}, "lookup", "fields of a chart"),
        ([1], "lookup", "fields of a chart"),
        (table() | {"data": table()["data"] * 2}, "lookup", "several values"),
    ],
)
def test_charts_without_a_clear_answer_are_dropped(data, kind, reason):
    with pytest.raises(Dropped, match=reason):
        charts.ask(data, kind, picks())

"""Rows of each dataset as questions; the rows that are no fair question are left out."""

import pytest

from examples.tiny_r1v.data import converters
from examples.tiny_r1v.data.errors import Dropped


def pick(name, n):
    return n - 1


@pytest.mark.parametrize(
    "problem, answer, task, truth",
    [
        ("Find x.", "3", "math", "3"),
        ("Find x.", "B", "math", "B"),  # a point's name, not an option
        ("Which?\nA. 1\nB. 2", "B", "choice", "B"),
        ("Which? (A) 1 (B) 2", "(B)", "choice", "B"),
        ("Which?\nA. 1\nB. 2", "2", "math", "2"),
    ],
)
def test_a_letter_is_a_choice_only_where_options_are_listed(problem, answer, task, truth):
    question = converters.geometry3k({"problem": problem, "answer": answer}, pick)
    assert (question.task, question.answer) == (task, truth)
    assert question.text.endswith("option.") == (task == "choice")


def test_a_missing_answer_is_empty_not_the_word_none():
    assert converters.mmk12({"question": "x?", "answer": None}, pick).answer == ""


def test_tabfact_tells_header_from_rows_and_label_from_label():
    row = {"table_text": "a#b\n1#2\n3#4\n", "table_caption": "t", "statement": "s", "label": 1}
    question = converters.tabfact(row, pick)
    assert question.table.header == ("a", "b")
    assert question.table.rows == (("1", "2"), ("3", "4"))
    assert (question.answer, converters.tabfact(row | {"label": 0}, pick).answer) == ("Yes", "No")


def test_plotqa_loses_the_cauldrons_request_for_brevity_and_the_period():
    turn = {"user": "What is the total in 2001?\nBe brief.", "assistant": "1.50.", "source": ""}
    question = converters.plotqa({"texts": [turn]}, pick)
    assert question[:3] == ("What is the total in 2001?", "1.50", "relaxed")
    yes = converters.plotqa({"texts": [turn | {"assistant": "Yes."}]}, pick)
    assert (yes.answer, yes.task) == ("Yes", "exact")


@pytest.mark.parametrize("answer", ["12", "-3", "1,200", "0.5", "1e-05"])
def test_numbers_read_off_a_plot_may_be_five_percent_off(answer):
    turn = {"user": "What is it?", "assistant": answer, "source": ""}
    assert converters.plotqa({"texts": [turn]}, pick).task == "relaxed"


def test_ocr_vqa_asks_only_for_what_stands_on_the_cover():
    row = {
        "questions": ["Who wrote it?", "What genre?", "Is it a comic?"],
        "answers": ["Ann", "Travel", "No"],
        "title": "A Walk",
        "authorName": "Ann",
    }
    assert converters.ocr_vqa(row, pick).answer == "Ann"
    with pytest.raises(Dropped, match="written in the picture"):
        converters.ocr_vqa(row | {"authorName": "", "title": None}, pick)


@pytest.mark.parametrize(
    "convert, row, reason",
    [
        (
            converters.wikitablequestions,
            {"question": "?", "answers": ["a", "b"], "table": {}},
            "several answers",
        ),
        (
            converters.wikitablequestions,
            {"question": "?", "answers": ["a"], "table": {"header": ["x"], "rows": [["1", "2"]]}},
            "different lengths",
        ),
        (converters.tqa, {"texts": [{"user": "?", "assistant": "Answer: 7"}]}, "no letter"),
        (converters.plotqa, {"texts": []}, "no question"),
        (converters.textvqa, {"question": "?", "answers": list("abcdefghij")}, "agree"),
        (converters.textvqa, {"question": "?", "answers": ["unanswerable"] * 10}, "agree"),
        (converters.docvqa, {"question": "?", "answers": []}, "no answer"),
    ],
)
def test_rows_that_are_no_fair_question_are_dropped(convert, row, reason):
    with pytest.raises(Dropped, match=reason):
        convert(row, pick)


@pytest.mark.parametrize(
    "answer, kind, scale, truth, said",
    [
        (["$1,452.4"], "span", "", "$1,452.4", ""),
        (12.5, "arithmetic", "percent", "12.5%", "% sign"),
        (-3.456, "arithmetic", "thousand", "-3.46", "in thousands"),
        (1000.0, "arithmetic", "", "1000", "two decimals"),
        (2, "count", "", "2", ""),
        ("3", "count", "", "3", ""),
    ],
)
def test_tat_dqa_says_in_which_scale_the_answer_is_wanted(answer, kind, scale, truth, said):
    entry = {"question": "Q?", "answer": answer, "answer_type": kind, "scale": scale}
    question = converters.tat_dqa(entry)
    assert (question.answer, question.task) == (truth, "exact")
    assert said in question.text and (said or question.text == "Q?")


@pytest.mark.parametrize(
    "kind, answer, reason",
    [("multi-span", ["a", "b"], "several answers"), ("arithmetic", "n/a", "no number")],
)
def test_tat_dqa_without_one_checkable_answer_is_left_out(kind, answer, reason):
    entry = {"question": "Q?", "answer": answer, "answer_type": kind, "scale": ""}
    with pytest.raises(Dropped, match=reason):
        converters.tat_dqa(entry)

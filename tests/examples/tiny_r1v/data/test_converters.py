"""Rows of each dataset as questions; the rows that are no fair question are left out."""

import pytest

from examples.tiny_r1v.data import converters
from examples.tiny_r1v.data.errors import Dropped
from examples.tiny_r1v.data.schema import earns_the_reward
from lipo_verl.rewards import exact


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
    question = converters.geometry3k({"problem": problem, "answer": answer})
    assert (question.task, question.answer) == (task, truth)
    assert question.text.endswith("option.") == (task == "choice")


def test_tabfact_tells_header_from_rows_and_label_from_label():
    row = {"table_text": "a#b\n1#2\n3#4\n", "table_caption": "t", "statement": "s", "label": 1}
    question = converters.tabfact(row)
    assert question.table.header == ("a", "b")
    assert question.table.rows == (("1", "2"), ("3", "4"))
    assert (question.answer, converters.tabfact(row | {"label": 0}).answer) == ("Yes", "No")


def test_plotqa_loses_the_cauldrons_request_for_brevity_and_the_period():
    turn = {"user": "What is the total in 2001?\nBe brief.", "assistant": "1.50.", "source": ""}
    question = converters.plotqa(turn)
    assert question[:3] == ("What is the total in 2001?", "1.50", "relaxed")
    yes = converters.plotqa(turn | {"assistant": "Yes."})
    assert (yes.answer, yes.task) == ("Yes", "exact")


@pytest.mark.parametrize("answer", ["12", "-3", "1,200", "0.5", "1e-05"])
def test_numbers_read_off_a_plot_may_be_five_percent_off(answer):
    turn = {"user": "What is it?", "assistant": answer, "source": ""}
    assert converters.plotqa(turn).task == "relaxed"


BOOK = {
    "questions": ["Who wrote it?", "What is it called?", "What genre?"],
    "answers": ["Ann", "A Walk", "Travel"],
    "title": "A Walk",
    "authorName": "Ann",
}


def test_ocr_vqa_asks_all_that_stands_on_the_cover_and_nothing_else():
    author, title, genre = converters.ocr_vqa_turns(BOOK)
    assert [converters.ocr_vqa(turn).answer for turn in (author, title)] == ["Ann", "A Walk"]
    for turn in (genre, author | {"authorName": None}):
        with pytest.raises(Dropped, match="not written in the picture"):
            converters.ocr_vqa(turn)
    with pytest.raises(Dropped, match="of different numbers"):
        converters.ocr_vqa_turns(BOOK | {"answers": ["Ann"]})


TABLE = {"header": ["x"], "rows": [["1"]]}
TABFACT = {"table_text": "a\n1", "table_caption": None, "statement": "s", "label": 1}
TAT_DQA = {"question": "Q?", "answer": ["1"], "answer_type": "span", "scale": ""}


@pytest.mark.parametrize(
    "convert, row, reason",
    [
        (converters.geometry3k, {"problem": None, "answer": "1"}, "no problem"),
        (converters.mmk12, {"question": "x?", "answer": None}, "no answer"),
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
        (converters.wikitablequestions, {"question": "?", "answers": None}, "no answer"),
        (
            converters.wikitablequestions,
            {"question": None, "answers": ["1"], "table": TABLE},
            "no question",
        ),
        (converters.tabfact, TABFACT | {"label": None}, "neither 0 nor 1"),
        (converters.tabfact, TABFACT | {"label": -1}, "neither 0 nor 1"),
        (converters.tabfact, TABFACT | {"statement": None}, "no statement"),
        (converters.tabfact, TABFACT | {"table_text": ""}, "no table_text"),
        (converters.tqa, {"user": "?", "assistant": "Answer: 7"}, "no letter"),
        (converters.tqa, {"user": None, "assistant": "Answer: A"}, "no user"),
        (converters.plotqa, {"user": "Be brief.", "assistant": "7."}, "question mark"),
        (converters.plotqa, {"user": "What?", "assistant": None}, "no assistant"),
        (converters.textvqa, {"question": "?", "answers": list("abcdefghij")}, "agree"),
        (converters.textvqa, {"question": "?", "answers": ["unanswerable"] * 10}, "agree"),
        (converters.textvqa, {"question": "?", "answers": None}, "agree"),
        (converters.docvqa, {"question": "?", "answers": []}, "no answer"),
        (converters.docvqa, {"question": None, "answers": ["a"]}, "no question"),
        (converters.iam_line, {"text": None}, "no text"),
        (converters.tat_dqa, TAT_DQA | {"answer": ["a", "b"]}, "several answers"),
        (converters.tat_dqa, TAT_DQA | {"answer_type": "multi-span"}, "several answers"),
        (converters.tat_dqa, TAT_DQA | {"answer": None}, "no answer"),
        (converters.tat_dqa, TAT_DQA | {"answer": [""]}, "no answer"),
        (converters.tat_dqa, TAT_DQA | {"answer": "n/a", "scale": "million"}, "no number"),
        (
            converters.tat_dqa,
            TAT_DQA | {"answer": "n/a", "answer_type": "arithmetic"},
            "no number",
        ),
        (converters.tat_dqa, TAT_DQA | {"scale": "lakh"}, "unknown scale"),
        (converters.tat_dqa, TAT_DQA | {"answer": "$5", "scale": "percent"}, "don't agree"),
        (converters.tat_dqa, TAT_DQA | {"answer": "5%", "scale": "million"}, "don't agree"),
    ],
)
def test_what_is_no_fair_question_is_dropped(convert, row, reason):
    with pytest.raises(Dropped, match=reason):
        convert(row)


NUMBER = "Answer with the number alone{}, without a currency sign{}."
PERCENT = "Answer in percent, with the % sign{}."
ROUNDED = ", with at most two decimals"


@pytest.mark.parametrize(
    "answer, kind, scale, truth, form",
    [
        (["$1,452.4"], "span", "", "1452.4", NUMBER.format("", "")),
        (["$1,452.4"], "span", "million", "1452.4", NUMBER.format(", in millions", "")),
        (["$1.2 million"], "span", "million", "1.2", NUMBER.format(", in millions", "")),
        (["$1.2 million"], "span", "", "1200000", NUMBER.format("", "")),
        (["1,234"], "span", "thousand", "1234", NUMBER.format(", in thousands", "")),
        (["(1,234)"], "span", "thousand", "-1234", NUMBER.format(", in thousands", "")),
        (["$ (1,234)"], "span", "", "-1234", NUMBER.format("", "")),
        (["(3.2)%"], "span", "", "-3.2%", PERCENT.format("")),
        (["3.2%"], "span", "percent", "3.2%", PERCENT.format("")),
        (["3.2"], "span", "percent", "3.2%", PERCENT.format("")),
        (["2019"], "span", "", "2019", NUMBER.format("", "")),
        (12.5, "arithmetic", "percent", "12.5%", PERCENT.format(ROUNDED)),
        (-3.456, "arithmetic", "thousand", "-3.46", NUMBER.format(", in thousands", ROUNDED)),
        (2.675, "arithmetic", "", "2.68", NUMBER.format("", ROUNDED)),  # .2f gives 2.67
        (-0.001, "arithmetic", "", "0", NUMBER.format("", ROUNDED)),
        (1000.0, "arithmetic", "", "1000", NUMBER.format("", ROUNDED)),
        ("1,000.5", "arithmetic", "", "1000.5", NUMBER.format("", ROUNDED)),
        (1e40, "arithmetic", "", "1" + "0" * 40, NUMBER.format("", ROUNDED)),
        (2, "count", "", "2", NUMBER.format("", "")),
        (["3.5 years"], "span", "", "3.5 years", "Answer as it is written in the document."),
        (["Level 2 (a)"], "span", "", "Level 2 (a)", "Answer as it is written in the document."),
    ],
)
def test_tat_dqa_gives_its_truth_in_the_form_that_the_question_asks_for(
    answer, kind, scale, truth, form
):
    entry = {"question": "Q?", "answer": answer, "answer_type": kind, "scale": scale}
    question = converters.tat_dqa(entry)
    assert question[:3] == (f"Q? {form}", truth, "exact")
    assert earns_the_reward(truth, "exact")


def test_numbers_with_and_without_thousands_separators_are_the_same_and_scales_are_not():
    entry = TAT_DQA | {"answer": ["$1,452.4"], "scale": "million"}
    truth = converters.tat_dqa(entry).answer
    assert [exact.score(answer, truth) for answer in ("1,452.4", "1452.40")] == [1, 1]
    assert [exact.score(answer, truth) for answer in ("1,452.4 million", "1.4524")] == [0, 0]


def test_wikitablequestions_gives_money_as_a_number_and_parentheses_as_they_stand():
    row = {"question": "How much?", "answers": ["$1,234"], "table": TABLE}
    assert converters.wikitablequestions(row)[:2] == (
        f"How much? {NUMBER.format('', '')}",
        "1234",
    )
    assert converters.wikitablequestions(row | {"answers": ["(2)"]})[:2] == (
        "How much? Answer as it is written in the table.",
        "(2)",
    )

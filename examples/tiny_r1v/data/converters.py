"""From a row of each dataset to a question, its answer and the reward's task. [ours]"""

import re
from collections import Counter
from typing import Any

from examples.tiny_r1v.data.charts import Pick
from examples.tiny_r1v.data.errors import Dropped
from examples.tiny_r1v.data.question import Question
from examples.tiny_r1v.data.tables import Table

_LETTER = re.compile(r"\(?([A-H])\)?\.?")
_OPTION = re.compile(r"(?:^|\n|\s)\(?[A-H][.:)]")

AGREEING = 3
"""TextVQA has ten answers to a question; the commonest must come from at least so many people."""


def mathematics(row: dict[str, Any], question: str, answer: str) -> Question:
    """A mathematics problem: ``choice`` where a letter of listed options is wanted."""
    text, truth = row[question], (row[answer] or "").strip()
    letter = _LETTER.fullmatch(truth)
    if letter and len(_OPTION.findall(text)) > 1:
        return _choice(text, letter[1])
    return Question(text, truth, "math")


def geometry3k(row: dict[str, Any], pick: Pick) -> Question:
    """``problem`` and ``answer`` (a number or expression)."""
    return mathematics(row, "problem", "answer")


mmr1 = geometry3k


def mmk12(row: dict[str, Any], pick: Pick) -> Question:
    """``question`` and ``answer``; the training part has mathematics only."""
    return mathematics(row, "question", "answer")


def wikitablequestions(row: dict[str, Any], pick: Pick) -> Question:
    """``question``, ``answers`` and ``table`` with ``header`` and ``rows``."""
    if len(row["answers"]) != 1:
        raise Dropped("several answers")
    header, rows = row["table"]["header"], row["table"]["rows"]
    return Question(row["question"], row["answers"][0], "exact", _table(header, rows))


def tabfact(row: dict[str, Any], pick: Pick) -> Question:
    """``statement``, ``label`` (1: the table entails it), ``table_text`` (lines, cells by ``#``),
    ``table_caption``."""
    header, *rows = (line.split("#") for line in row["table_text"].strip().split("\n"))
    table = _table(header, rows, row["table_caption"] or "")
    text = f"Is this statement true according to the table? {row['statement']}\nAnswer yes or no."
    return Question(text, "Yes" if row["label"] == 1 else "No", "exact", table)


def tat_dqa(entry: dict[str, Any]) -> Question:
    """An entry of ``questions``: ``question``, ``answer``, ``answer_type``, ``scale``.

    The question says the scale and the number of decimals in which the answer is given.
    """
    text, kind, scale = entry["question"], entry["answer_type"], entry["scale"]
    answers = entry["answer"] if isinstance(entry["answer"], list) else [entry["answer"]]
    if len(answers) != 1 or kind == "multi-span":
        raise Dropped("several answers")
    value = answers[0]
    if kind == "arithmetic":
        unit = "with the % sign, " if scale == "percent" else f"in {scale}s, " if scale else ""
        text = f"{text} Answer {unit}with at most two decimals."
        value = _two_decimals(value) + ("%" if scale == "percent" else "")
    return Question(text, str(value), "exact")


def _two_decimals(value: Any) -> str:
    try:
        text = f"{float(value):.2f}"
    except (TypeError, ValueError):
        raise Dropped("arithmetic answer that is no number") from None
    return text.rstrip("0").rstrip(".")


def tqa(row: dict[str, Any], pick: Pick) -> Question:
    """The Cauldron's ``texts``; ``Question: … Choices: A. … Answer with the letter.``"""
    turn = _turn(row, pick)
    letter = _LETTER.fullmatch(turn["assistant"].removeprefix("Answer:").strip())
    if letter is None:
        raise Dropped("answer that is no letter")
    text = turn["user"].removeprefix("Question:").removesuffix("Answer with the letter.").strip()
    return _choice(text, letter[1])


def plotqa(row: dict[str, Any], pick: Pick) -> Question:
    """The Cauldron's ``texts``, of which there are about a hundred for a plot: one is drawn."""
    turn = _turn(row, pick)
    text, mark, _ = turn["user"].partition("?")
    answer = turn["assistant"].strip().removesuffix(".")
    if answer in ("Yes", "No"):
        return Question(f"{text}{mark} Answer yes or no.", answer, "exact")
    return Question(text + mark, answer, "relaxed" if _is_number(answer) else "exact")


def textvqa(row: dict[str, Any], pick: Pick) -> Question:
    """``question`` and ten ``answers``."""
    answer, count = Counter(text.strip() for text in row["answers"]).most_common(1)[0]
    if count < AGREEING or answer.casefold() in (
        "unanswerable",
        "answering does not require reading text in the image",
    ):
        raise Dropped("answer that people do not agree on")
    return _read(row["question"], answer)


def docvqa(row: dict[str, Any], pick: Pick) -> Question:
    """``question`` and ``answers``, which are ways to write the same thing."""
    if not row["answers"]:
        raise Dropped("no answer")
    return _read(row["question"], Counter(row["answers"]).most_common(1)[0][0])


def ocr_vqa(row: dict[str, Any], pick: Pick) -> Question:
    """``questions`` and ``answers`` about a book cover; only those whose answer stands on it:
    ``title`` and ``authorName``."""
    on_cover = {row["title"], row["authorName"]} - {None, ""}
    pairs = zip(row["questions"], row["answers"], strict=True)
    pairs = [(question, answer) for question, answer in pairs if answer in on_cover]
    if not pairs:
        raise Dropped("no question whose answer is written in the picture")
    return _read(*pairs[pick("question", len(pairs))])


def iam_line(row: dict[str, Any], pick: Pick) -> Question:
    """``text``: a handwritten line."""
    return Question("Write down the handwritten line of text as it stands.", row["text"], "ocr")


def _read(question: str, answer: str) -> Question:
    return Question(f"{question} Answer with the text as it is written.", answer, "ocr")


def _choice(text: str, letter: str) -> Question:
    return Question(
        f"{text.strip()}\nAnswer with the letter of the right option.", letter, "choice"
    )


def _turn(row: dict[str, Any], pick: Pick) -> dict[str, str]:
    if not row["texts"]:
        raise Dropped("no question")
    return row["texts"][pick("question", len(row["texts"]))]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?", text, re.I) is not None


def _table(header: list[str], rows: list[list[str]], title: str = "") -> Table:
    if any(len(row) != len(header) for row in rows):
        raise Dropped("table with rows of different lengths")
    return Table(tuple(header), tuple(map(tuple, rows)), title)

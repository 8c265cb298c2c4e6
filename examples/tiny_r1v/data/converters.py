"""From a row of each dataset to a question, its answer and the reward's task. [ours]

A converter raises Dropped for a question that is no fair one, a missing field included. Rows with
several questions are split first (``turns``, ``ocr_vqa_turns``).
"""

import re
from collections import Counter
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from examples.tiny_r1v.data.errors import Dropped
from examples.tiny_r1v.data.question import Question
from examples.tiny_r1v.data.tables import Table
from lipo_verl.rewards import exact

_LETTER = re.compile(r"\(?([A-H])\)?\.?")
_OPTION = re.compile(r"(?:^|\n|\s)\(?[A-H][.:)]")
_NEGATIVE = re.compile(r"(?P<before>[^\d()]*)\((?P<amount>[^()]+)\)(?P<after>\s*%?)")
"""A loss as accountants write it: ``(1,234)``, ``$ (1.5)``, ``(3.2)%``."""

_MONEY = ("$", "€", "£", "¥", "元")
_SCALES = ("thousand", "million", "billion")

AGREEING = 3
"""TextVQA has ten answers to a question; the commonest must come from at least so many people."""


def mathematics(row: dict[str, Any], question: str, answer: str) -> Question:
    """A mathematics problem: ``choice`` where a letter of listed options is wanted."""
    text, truth = _field(row, question), _field(row, answer)
    letter = _LETTER.fullmatch(truth)
    if letter and len(_OPTION.findall(text)) > 1:
        return _choice(text, letter[1])
    return Question(text, truth, "math")


def geometry3k(row: dict[str, Any]) -> Question:
    """``problem`` and ``answer`` (a number or expression)."""
    return mathematics(row, "problem", "answer")


mmr1 = geometry3k


def mmk12(row: dict[str, Any]) -> Question:
    """``question`` and ``answer``; the training part has mathematics only."""
    return mathematics(row, "question", "answer")


def wikitablequestions(row: dict[str, Any]) -> Question:
    """``question``, ``answers`` and ``table`` with ``header`` and ``rows``."""
    answer = _single(row["answers"])
    table = row["table"] or {}
    header, rows = table.get("header") or [], table.get("rows") or []
    text = _field(row, "question")
    return _short(text, answer)._replace(table=_table(header, rows))


def tabfact(row: dict[str, Any]) -> Question:
    """``statement``, ``label`` (1: the table entails it), ``table_text`` (lines, cells by ``#``),
    ``table_caption``."""
    if row["label"] not in (0, 1):
        raise Dropped("label that is neither 0 nor 1")
    header, *rows = (line.split("#") for line in _field(row, "table_text").split("\n"))
    table = _table(header, rows, row["table_caption"] or "")
    statement = _field(row, "statement")
    text = f"Is this statement true according to the table? {statement}\nAnswer yes or no."
    return Question(text, "Yes" if row["label"] == 1 else "No", "exact", table)


def tat_dqa(entry: dict[str, Any]) -> Question:
    """An entry of ``questions``: ``question``, ``answer``, ``answer_type``, ``scale``."""
    text, kind, scale = _field(entry, "question"), entry["answer_type"], entry["scale"] or ""
    if kind == "multi-span":
        raise Dropped("several answers")
    answer = entry["answer"]
    answer = _single(answer if isinstance(answer, list) else [answer])
    if scale not in ("", "percent", *_SCALES):
        raise Dropped("unknown scale")
    return _short(text, _signed(answer), scale, calculated=kind == "arithmetic", where="document")


def _signed(answer: str) -> str:
    """A loss in parentheses with a minus sign; anything else as it is."""
    loss = _NEGATIVE.fullmatch(answer)
    signed = loss and f"-{loss['before'].strip()}{loss['amount']}{loss['after']}"
    return signed if signed and exact.quantity(signed) else answer


def _short(
    text: str, answer: str, scale: str = "", calculated: bool = False, where: str = "table"
) -> Question:
    """A question whose text says in which form the answer is given, and a truth in that form.

    A number is given alone: in ``scale``, without currency sign, rounded to two decimals if it is
    ``calculated``. Percentages have their sign. Anything else, numbers with another unit included,
    is given as it is written.

    scale: what a number counts: thousand, million, billion, percent, or "" for one
    """
    quantity = exact.quantity(answer)
    if quantity is None or quantity.unit not in ("", "%", *_MONEY):
        if calculated or scale:
            raise Dropped("answer with a scale that is no number")
        return Question(f"{text} Answer as it is written in the {where}.", answer, "exact")
    percent = quantity.unit == "%" or scale == "percent"
    if percent and (quantity.unit in _MONEY or scale in _SCALES):
        raise Dropped("answer whose unit and scale don't agree")
    value = quantity.value
    if scale in _SCALES and re.search(exact.SCALE, answer.lower()):
        value = value.scaleb(-exact.SCALES[scale])
    if calculated:
        value = value.quantize(Decimal("0.01"), ROUND_HALF_UP, Context(prec=150))
    rounded = ", with at most two decimals" if calculated else ""
    if percent:
        form = f"Answer in percent, with the % sign{rounded}."
    else:
        unit = f", in {scale}s" if scale else ""
        form = f"Answer with the number alone{unit}, without a currency sign{rounded}."
    truth = exact.Quantity(value, "%" if percent else "")
    return Question(f"{text} {form}", str(truth), "exact")


def turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The Cauldron's ``texts``: the questions about a picture, each with ``user`` and
    ``assistant``."""
    return row["texts"] or []


def tqa(turn: dict[str, Any]) -> Question:
    """``Question: … Choices: A. … Answer with the letter.``"""
    letter = _LETTER.fullmatch(_field(turn, "assistant").removeprefix("Answer:").strip())
    if letter is None:
        raise Dropped("answer that is no letter")
    text = _field(turn, "user").removeprefix("Question:").removesuffix("Answer with the letter.")
    return _choice(text, letter[1])


def plotqa(turn: dict[str, Any]) -> Question:
    """A question, and behind its first ``?`` the Cauldron's request for brevity."""
    text, mark, _ = _field(turn, "user").partition("?")
    answer = _field(turn, "assistant").removesuffix(".")
    if not mark:
        raise Dropped("question without a question mark")
    if answer in ("Yes", "No"):
        return Question(f"{text}? Answer yes or no.", answer, "exact")
    return Question(f"{text}?", answer, "relaxed" if _is_number(answer) else "exact")


def textvqa(row: dict[str, Any]) -> Question:
    """``question`` and ten ``answers``."""
    answers = Counter(text.strip() for text in row["answers"] or [] if text)
    answer, count = answers.most_common(1)[0] if answers else ("", 0)
    if count < AGREEING or answer.casefold() in (
        "unanswerable",
        "answering does not require reading text in the image",
    ):
        raise Dropped("answer that people do not agree on")
    return _read(_field(row, "question"), answer)


def docvqa(row: dict[str, Any]) -> Question:
    """``question`` and ``answers``, which are ways to write the same thing."""
    answers = Counter(filter(None, row["answers"] or []))
    if not answers:
        raise Dropped("no answer")
    return _read(_field(row, "question"), answers.most_common(1)[0][0])


def ocr_vqa_turns(row: dict[str, Any]) -> list[dict[str, Any]]:
    """``questions`` and ``answers`` about a book cover, each with its ``title`` and
    ``authorName``."""
    questions, answers = row["questions"] or [], row["answers"] or []
    if len(questions) != len(answers):
        raise Dropped("questions and answers of different numbers")
    return [
        row | {"question": question, "answer": answer}
        for question, answer in zip(questions, answers, strict=True)
    ]


def ocr_vqa(turn: dict[str, Any]) -> Question:
    """``question`` and ``answer``, which must stand on the cover: ``title`` or ``authorName``."""
    answer = _field(turn, "answer")
    if answer not in (turn["title"], turn["authorName"]):
        raise Dropped("answer that is not written in the picture")
    return _read(_field(turn, "question"), answer)


def iam_line(row: dict[str, Any]) -> Question:
    """``text``: a handwritten line."""
    text = "Write down the handwritten line of text as it stands."
    return Question(text, _field(row, "text"), "ocr")


def _field(row: dict[str, Any], key: str) -> str:
    text = "" if row[key] is None else str(row[key]).strip()
    if not text:
        raise Dropped(f"no {key}")
    return text


def _single(answers: list[Any] | None) -> str:
    given = [str(answer).strip() for answer in answers or [] if answer is not None]
    given = [answer for answer in given if answer]
    if len(given) != 1:
        raise Dropped("several answers" if given else "no answer")
    return given[0]


def _read(question: str, answer: str) -> Question:
    return Question(f"{question} Answer with the text as it is written.", answer, "ocr")


def _choice(text: str, letter: str) -> Question:
    return Question(
        f"{text.strip()}\nAnswer with the letter of the right option.", letter, "choice"
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?[\d,]*\.?\d+(?:e[-+]?\d+)?", text, re.I) is not None


def _table(header: list[str], rows: list[list[str]], title: str = "") -> Table:
    if any(len(row) != len(header) for row in rows):
        raise Dropped("table with rows of different lengths")
    return Table(tuple(header), tuple(map(tuple, rows)), title)

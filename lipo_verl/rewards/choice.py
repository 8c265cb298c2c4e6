"""Multiple choice: which option letter an answer names, if it names exactly one. [ours]"""

import re

from lipo_verl.rewards import exact
from lipo_verl.rewards.errors import TruthError

_ALONE = r"(?<![\w'’-])(?:\(([A-Za-z])\)|([A-Z]))(?![\w'’]|-\w)"
_ALSO = rf"(?:\s*(?:,|/|&|\bor\b|\band\b|\bnot\b))+\s*{_ALONE}"
_LISTED = rf"{_ALONE}(?:{_ALSO})*"

_BARE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:,]?")
_STATED = re.compile(
    rf"\b(?:(?i:answer)(?:\s+(?i:is|would\s+be))?|(?i:option|choice))\s*:?\s*{_LISTED}"
)
_STATED_IN_LOWER_CASE = re.compile(r"\banswer(?:\s+is)?\s*:?\s*([a-z])[.)]*$")
_MARKED = re.compile(r"(?<![\w'’-])(?:\(([A-Za-z])\)|([A-Z])(?:\)|[.:](?=\s+\S)))")
_ALTERNATIVE = re.compile(rf"\b(?:or|and)\s+{_ALONE}")
_LIST = re.compile(rf"{_ALONE}(?:{_ALSO})+")
_DENIED = re.compile(rf"\b(?:not|neither|except)\s+{_ALONE}")
_LETTER = re.compile(_ALONE)


def score(answer: str, truth: str) -> float:
    """1.0 where the answer names the option of the truth and no other, else 0.0.

    truth: the letter, alone or as in ``(B)`` or ``B. a red bar``

    Raises TruthError where the truth names no single option.
    """
    wanted = letter(truth)
    if wanted is None:
        raise TruthError(
            f"The truth {truth!r} names no single option; task=choice wants a letter such as B."
        )
    return float(letter(answer) == wanted)


def letter(answer: str) -> str | None:
    """The one option that ``answer`` names, as a capital letter, or None for none or several.

    The clearest way of naming that occurs decides: the letter alone; ``the answer is B``,
    ``option B``; ``B. …``, ``(B) …``; a capital that stands alone. Letters inside words never
    count, nor do ``A`` and ``I`` where they may be words. What is joined by ``or``, ``and``,
    a comma or a slash counts as named, too. An answer that says which it is not names none.
    """
    answer = exact.strip_latex(answer).replace("*", "").strip()
    if bare := _BARE.fullmatch(answer):
        return bare[1].upper()
    if _DENIED.search(answer):
        return None
    named = (
        _letters(_STATED, answer, _may_be_a_word)
        or {found[1].upper() for found in _STATED_IN_LOWER_CASE.finditer(answer)}
        or _letters(_MARKED, answer)
        or _letters(_LETTER, answer, _may_be_a_word)
    )
    named |= _letters(_ALTERNATIVE, answer) | _letters(_LIST, answer)
    return named.pop() if len(named) == 1 else None


def _letters(pattern: re.Pattern[str], text: str, skip=lambda text, end: False) -> set[str]:
    """The letters in all matches of ``pattern``; ``skip(text, end of the letter)`` leaves out."""
    found = set()
    for match in pattern.finditer(text):
        for single in _LETTER.finditer(text, match.start(), match.end()):
            if not skip(text, single.end()):
                found.add((single[1] or single[2]).upper())
    return found


def _may_be_a_word(text: str, end: int) -> bool:
    """Whether the letter before ``end`` is an ``A`` or ``I`` that goes on as a sentence would."""
    followed = re.match(r"\s+(?!because\b|since\b|as\b|or\b|and\b|not\b)\w", text[end : end + 12])
    return text[end - 1] in "AI" and followed is not None

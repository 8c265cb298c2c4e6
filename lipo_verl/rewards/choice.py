"""Multiple choice: which option letter an answer names, if it names exactly one. [ours]"""

import re

from lipo_verl.rewards import forms
from lipo_verl.rewards.errors import TruthError

_INNER = r"[^\W\u2e80-\uffff]"  # of a word; Chinese has no spaces between words
_ALONE = rf"(?<!{_INNER})(?<!['’-])(?:\(([A-Za-z])\)|([A-Z]))(?!{_INNER}|['’]|-\w)"
_ALSO = rf"(?:\s*(?:,|/|&|\bor\b|\band\b|\bnor\b|\bnot\b|或|和))+\s*{_ALONE}"
_LISTED = rf"{_ALONE}(?:{_ALSO})*"

_BARE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[.:,]?")
_OPENING = re.compile(
    r"(?:\(([A-Za-z])\)(?!\s*(?:is|was)\b)|([A-Z]|[a-z](?=[).:]\s))([).:]))\s*(?=\S)"
)
_OF_SEVERAL = re.compile(r"(?:both|neither|either|all|none|only)\b", re.I)
_STATED = re.compile(
    rf"(?:\b(?:(?i:answer)(?:\s+(?i:is|would\s+be))?|(?i:option|choice))|答案[是为]?|选项?|选择)"
    rf"\s*:?\s*{_LISTED}"
)
_STATED_IN_LOWER_CASE = re.compile(r"\banswer(?:\s+is)?\s*:?\s*([a-z])[.)]*$")
_MARKED = re.compile(rf"(?<!{_INNER})(?<!['’-])(?:\(([A-Za-z])\)|([A-Z])(?:\)|[.:](?=\s*[^\s.])))")
_ALTERNATIVE = re.compile(rf"\b(?:or|and)\s+{_ALONE}")
_LIST = re.compile(rf"{_ALONE}(?:{_ALSO})+")
_DENIED = re.compile(
    rf"(?i:\b(?:not|neither|nor|except|but|excludes?|rul(?:e|ing)\s+out|eliminate|\w+n['’]?t)"
    rf"(?:\s+(?:option|choice))?)\s+{_ALONE}"
    rf"|(?:不是?|并?非|除了?|排除)\s*选?\s*{_ALONE}"
    rf"|{_ALONE}\s*(?i:(?:is|was|are)\s*(?:not\b|n['’]?t\b|wrong|false|incorrect)|是?错|不)"
)
_LETTER = re.compile(_ALONE)
_CHOSEN = re.compile(
    r"(?:^|[^\w\s'’-]\s*|-\s+|[\u2e80-\uffff]\s*|\b(?i:\w+ly|\w+['’]s|am|is|was|be|so|and|or|but|both"
    rf"|choose|chose|pick|select|think|with|thus|therefore|hence|then|correct)\s+){_ALONE}"
)


def score(answer: str, truth: str) -> float:
    """1.0 where the answer names the option of the truth and no other, else 0.0.

    Args:
        truth: the letter, alone or as in `(B)` or `B. a red bar`.

    Raises:
        TruthError: the truth names no single option.
    """
    wanted = letter(truth)
    if wanted is None:
        raise TruthError(
            f"The truth {truth!r} names no single option; task=choice wants a letter such as B."
        )
    return float(letter(answer) == wanted)


def letter(answer: str) -> str | None:
    """The one option that `answer` names, as a capital letter, or None for none or several.

    The clearest way of naming that occurs decides: the letter alone; `the answer is B`,
    `option B`; `B. …`, `(B) …`; a capital that stands alone, unlike the one of `Vitamin C`.
    Letters inside words never count, nor do `A` and `I` where they may be words. What is joined
    by `or`, `and`, a comma or a slash counts as named, too. Behind a mark that opens the
    answer stands that option's text. An answer that says which it is not names none.
    """
    answer = forms.level(answer).replace("*", "").replace("$", "").strip()
    if bare := _BARE.fullmatch(answer):
        return bare[1].upper()
    if opening := _OPENING.match(answer):
        named = _opened(opening, answer[opening.end() :])
    else:
        named = (
            _letters(_STATED, answer, _may_be_a_word)
            or {found[1].upper() for found in _STATED_IN_LOWER_CASE.finditer(answer)}
            or _letters(_MARKED, answer)
            or _letters(_CHOSEN, answer, _may_be_a_word)
        )
        named |= _letters(_ALTERNATIVE, answer) | _letters(_LIST, answer)
        if named & _letters(_DENIED, answer):
            return None
    return named.pop() if len(named) == 1 else None


def _opened(opening: re.Match[str], text: str) -> set[str]:
    """The option whose mark opens the answer, and those that its `text` marks in the same way or
    joins to it. What else it names belongs to the option: `D. Both A and C`."""
    letter = opening[1] or opening[2]
    named = {letter.upper()}
    if _OF_SEVERAL.match(text):
        return named
    mark = re.escape(opening[3]) if opening[3] else ""
    marked = rf"(?<!{_INNER})([A-Z]){mark}" if mark else r"\(([A-Za-z])\)"
    follows = r"(?=\s*[^\s.])" if opening[3] in (".", ":") else ""
    others = re.findall(rf"(?<!\bnot ){marked}{follows}", text)
    others += re.findall(r"(?<![A-Z]) (?:or|and) ([A-Z])\.?$", text)
    return named | {other.upper() for other in others}


def _letters(pattern: re.Pattern[str], text: str, skip=lambda text, end: False) -> set[str]:
    """The letters in all matches of `pattern`; `skip(text, end of the letter)` leaves out."""
    found = set()
    for match in pattern.finditer(text):
        for single in _LETTER.finditer(text, match.start(), match.end()):
            if not skip(text, single.end()):
                found.add((single[1] or single[2]).upper())
    return found


def _may_be_a_word(text: str, end: int) -> bool:
    """Whether the letter before `end` is an `A` or `I` that goes on as a sentence would."""
    followed = re.match(r"\s+(?!because\b|since\b|as\b|or\b|and\b|not\b)\w", text[end : end + 12])
    return text[end - 1] in "AI" and followed is not None

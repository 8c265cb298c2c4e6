"""Exact match of short answers after the forms in which people write the same thing are levelled.

The paper's reward for mathematics and structured data is exact match [V]; what counts as the same
form is ours [ours] and listed in docs/rewards.md.
"""

import re
from dataclasses import dataclass
from decimal import Decimal

_FORMS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans(
    {"\u3000": " ", "。": ".", "−": "-", "’": "'", "‘": "'", "“": '"', "”": '"'}
)
"""Full-width forms, the minus sign and curly quotes to ASCII. NFKC would turn 10² into 102."""

_LATEX_WRAPPER = re.compile(
    r"\\(?:text|textrm|textbf|textit|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}"
)
_LATEX = (
    (
        re.compile(r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$|^\$\$(.*)\$\$$|^\$(.*[^\\])\$$", re.S),
        r"\1\2\3\4",
    ),
    (re.compile(r"\\(?:left|right)(?![a-zA-Z])"), ""),
    (re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})"), "°"),
    (re.compile(r"(?<=[0-9])(?:\\[,!;: ]|\{,\}|~)(?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"\\[,;:! ]|~"), " "),
    (re.compile(r"\\([%$&#_])"), r"\1"),
)
_ARTICLE = re.compile(r"^(?:the|an|a) (?=\S)")
_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<before>[$€£¥]?)\s*"
    r"(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?P<exponent>e[+-]?[0-9]{1,2}(?![0-9]))?"
    r"\s*(?P<unit>[^\s0-9.,][^0-9]*)?"
)
_UNITS = {"percent": "%", "per cent": "%", "degrees": "°", "degree": "°"} | {
    "dollars": "$",
    "dollar": "$",
    "usd": "$",
    "euros": "€",
    "euro": "€",
    "eur": "€",
}


@dataclass(frozen=True)
class Quantity:
    """A number with its unit; the unit is "" without one, ``%`` and currency signs are units."""

    value: Decimal
    unit: str

    def __str__(self) -> str:
        digits = format(self.value, "f")  # exact: Decimal.normalize would round to 28 digits
        if "." in digits:
            digits = digits.rstrip("0").removesuffix(".")
        return ("0" if digits == "-0" else digits) + self.unit


def score(answer: str, truth: str) -> float:
    """1.0 where both have the same :func:`normalise` form, else 0.0; an empty form never scores."""
    form = normalise(answer)
    return float(form != "" and form == normalise(truth))


def normalise(text: str) -> str:
    """The one form that all ways of writing an answer share.

    Lower case; single spaces; no LaTeX wrappers, surrounding quotes, trailing periods or leading
    article; a number, with or without a unit, in plain decimal notation with the unit behind it.
    """
    text = _words(text)
    quantity = _quantity(text)
    return text if quantity is None else str(quantity)


def quantity(text: str) -> Quantity | None:
    """The number and unit that the whole of ``text`` is, or None.

    Thousands separators must stand every three digits: ``1,23`` is no number.
    """
    return _quantity(_words(text))


def strip_latex(text: str) -> str:
    """``text`` without math delimiters, text wrappers, spacing commands and escapes."""
    text = " ".join(text.translate(_FORMS).split())
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    inner = None
    while inner != text:
        inner, text = text, _LATEX_WRAPPER.sub(r"\1", text)
    return " ".join(text.split())


def _words(text: str) -> str:
    text = strip_latex(text).lower().strip("*` ")
    text = text.rstrip(".").rstrip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip().rstrip(".").rstrip()
    return _ARTICLE.sub("", text)


def _quantity(text: str) -> Quantity | None:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    unit = (match["unit"] or "").strip()
    unit = _UNITS.get(unit, unit)
    if match["before"]:
        if unit not in ("", match["before"]):
            return None
        unit = match["before"]
    number = match["sign"] + match["number"].replace(",", "") + (match["exponent"] or "")
    return Quantity(Decimal(number), unit)

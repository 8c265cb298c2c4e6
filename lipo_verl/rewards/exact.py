"""Exact match of short answers after the forms in which people write the same thing are levelled.

The paper's reward for mathematics and structured data is exact match [V]; what counts as the same
form is ours [ours] and listed in docs/rewards.md.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from lipo_verl.rewards import forms

_ARTICLE = re.compile(r"^(?:the|an|a) (?=\S)")
SCALES = dict(thousand=3, million=6, billion=9, trillion=12, 万=4, 亿=8)
"""Words behind a number, and the powers of ten that they are."""
SCALE = rf"(?P<scale>{'|'.join(SCALES)})s?(?![a-z])"
_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<before>(?:us)?\$|usd|[€£¥]|)\s*(?P<after_sign>[+-]?)"
    r"(?P<number>(?:[0-9]{1,3}(?P<comma>[, ])[0-9]{3}(?:(?P=comma)[0-9]{3})*|[0-9]+)(?:\.[0-9]*)?"
    r"|\.[0-9]+)"
    r"(?P<exponent>e[+-]?[0-9]{1,2}(?![0-9]))?"
    rf"\s*(?:{SCALE})?"
    r"\s*(?P<unit>[^\s0-9.,\\][^0-9]*|[^\W0-9_][^0-9]*[23]\}?(?:/[^0-9]*)?)?"
)
_POWER = re.compile(
    r"(?:(?P<word>sq|square|cu|cubic)\.? )?(?P<name>.*?)(?:(?P<sign>\^?)\{?(?P<digit>[23])\}?)?"
)
_NAMES = {
    "%": "percent per-cent pct percentage",
    "°": "degree deg",
    "$": "dollar usd us$",
    "€": "euro eur",
    "£": "gbp",
    "¥": "yen jpy",
    "元": "yuan rmb cny",
    "mm": "millimeter millimetre 毫米",
    "cm": "centimeter centimetre 厘米",
    "m": "meter metre 米",
    "km": "kilometer kilometre 千米 公里",
    "g": "gram 克",
    "kg": "kilogram 千克 公斤",
    "ml": "milliliter millilitre 毫升",
    "l": "liter litre 升",
    "s": "second sec 秒",
    "min": "minute 分钟",
    "h": "hour hr 小时",
    "in": "inch inche",
    "ft": "foot feet",
    "miles": "mile mi",
    "lb": "pound",
}
_UNITS = {name: unit for unit, names in _NAMES.items() for name in names.split()}
UNITS = frozenset(_NAMES)
"""The units that are known by several names, as `unit` writes them."""


@dataclass(frozen=True)
class Quantity:
    """A number with its unit; the unit is "" without one, `%` and currency signs are units."""

    value: Decimal
    unit: str

    def __str__(self) -> str:
        digits = format(self.value, "f")  # exact: Decimal.normalize would round to 28 digits
        if "." in digits:
            digits = digits.rstrip("0").removesuffix(".")
        return ("0" if digits == "-0" else digits) + self.unit


def score(answer: str, truth: str) -> float:
    """1.0 where both have the same `normalise` form, else 0.0; an empty form never scores."""
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
    """The number and unit that the whole of `text` is, or None.

    Thousands separators must stand every three digits: `1,23` is no number.
    """
    return _quantity(_words(text))


def readings(given: Any, given_unit: str, wanted: Any, wanted_unit: str) -> list[tuple[Any, Any]]:
    """The pairs of numbers to compare, one of which must agree: a percentage is its number and,
    where the other side has another unit or none, its hundredth."""
    pairs = [(given, wanted)]
    if given_unit == "%" != wanted_unit:
        pairs.append((given / 100, wanted))
    if wanted_unit == "%" != given_unit:
        pairs.append((given, wanted / 100))
    return pairs


def unit(text: str) -> str:
    """The one form of a unit, in lower case: `square meters`, `m^2` and `m²` are `m²`."""
    text = text.replace("per cent", "percent").replace(" per ", "/").replace("平方", "square ")
    return "/".join(_unit(part.strip()) for part in text.split("/"))


def _unit(text: str) -> str:
    match = _POWER.fullmatch(text)
    if match is None:  # several lines
        return text
    name = match["name"].strip()
    if len(name) > 2:
        name = name.removesuffix("s")
    name = _UNITS.get(name, name)
    if match["digit"] and not match["sign"] and name not in UNITS:
        return text
    power = (match["word"] or match["digit"] or " ")[0]
    return name + {"s": "²", "c": "³", "2": "²", "3": "³", " ": ""}[power]


def _words(text: str) -> str:
    text = forms.level(text).lower().strip("*` ").rstrip(".*` ")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1].strip().rstrip(".").rstrip()
    return _ARTICLE.sub("", text)


def _quantity(text: str) -> Quantity | None:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    named = unit((match["unit"] or "").strip())
    if match["before"]:
        before = unit(match["before"])
        if named not in ("", before):
            return None
        named = before
    digits = match["number"].replace(",", "").replace(" ", "")
    power = int((match["exponent"] or "e0")[1:]) + SCALES.get(match["scale"], 0)
    return Quantity(Decimal(f"{match['sign'] or match['after_sign']}{digits}e{power}"), named)

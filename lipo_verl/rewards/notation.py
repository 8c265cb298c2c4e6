r"""Mathematics as people write it, in the LaTeX that math-verify's grammar knows. [ours]

`measured` takes names and units off, `latex` translates Unicode and plain notation.
"""

import re
import unicodedata

from lipo_verl.rewards import exact, forms

# Around a value

_ESCAPED_TWICE = re.compile(r"\\\\(?=[a-z]{2})")
_PAIR_OF_DOLLARS = re.compile(r"(?<!\\)\$([^$]*[^$\\ ])\s?(?<!\\)\$(?![0-9])")
_LEADING = re.compile(r"^(?:[A-Za-z] ?(?:\\in(?![a-z])|∈)|\\approx(?![a-z])|≈) ?")
_NAME = re.compile(
    r"^(?=[^=]*[^\W\d_])(?![0-9$])(?:[^=<>+*/^≤≥≠{}-]|\{[^{}=]*\})*(?<![!<>])= *(?=[^=<>]+$)"
)
_MONEY = re.compile(r"(?P<sign>[+-]?) ?(?P<unit>(?:US)?\$|USD|[€£¥]) ?(?P<value>[^$€£¥]+)")
_BASE = re.compile(r"(?P<value>[0-9]+) ?_ ?\{?(?P<unit>[0-9]+)\}?")
_SCALED = re.compile(rf"(?<=[0-9]) ?{exact.SCALE}")

# Units

_WORD = r"[^\W\d_α-ω]+"
_UNIT = rf"{_WORD}\.?(?:\^?\{{?[23]\}}?|[²³])?"
_MEASURED = re.compile(
    r"(?P<value>.*?(?:[\d)}\]!π]|\\[A-Za-z]+(?= )))(?P<gap> ?)"
    rf"(?P<unit>{_WORD}\.?(?: {_WORD}){{0,3}} {_UNIT}|{_UNIT}(?: ?/ ?{_UNIT})?|[%$€£¥]|° ?[CF]?)",
    re.S,
)
_LABEL = re.compile(r"(?<=[0-9)}\]])\s*(?=\\(?:text|mathrm|mbox))")
_UNITS = exact.UNITS | set(
    "°c °f mg dm nm yd oz gal ha mph kph kmh hz kw kwh kj kpa mol day week month year people men "
    "women children point unit".split()
)
_NO_UNIT = re.compile(
    r"\b(?:and|or|if|for|where|when|half|halves|thirds?|quarters?|\w+ths?|tens|hundreds?|dozens?|"
    r"times|plus|minus|less|squared|cubed|factorial)\b|分之|[万亿千百十倍或和至到]"
)
_COUNTED = re.compile(r"[a-z]{3,}s")
_COUNTED_IN_CHINESE = re.compile(r"[\u3400-\u9fff]{1,6}")

# Symbols

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾", "0123456789+-ni()")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢ", "0123456789+-ni")


def _greek(letter: str) -> str:
    return unicodedata.name(letter).split()[-1].lower().replace("lamda", "lambda")


_SYMBOLS = str.maketrans(
    {chr(code): rf"\{_greek(chr(code))} " for code in range(0x3B1, 0x3CA)}
    | {"∞": r"\infty ", "×": r"\times ", "÷": r"\div ", "±": r"\pm ", "≈": r"\approx "}
    | dict.fromkeys("·⋅∙•", r"\cdot ")
    | {"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap "}
    | {"∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "∖": r"\setminus "}
    | {"°": r"^{\circ}", "%": r"\cdot\frac{1}{100}", "或": " or ", "和": " and ", "且": " and "}
)


def _recurring(decimal: re.Match[str]) -> str:
    whole, fixed, again = decimal.groups()
    over = int(whole + fixed + again) - int(whole + fixed or "0")
    return rf"\frac{{{over}}}{{{'9' * len(again) + '0' * len(fixed)}}}"


_FUNCTIONS = "(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp"
_NOTATION = (
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar) ?\{([0-9]+)\}"), _recurring),
    (re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ⁽⁾]+"), lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}"),
    (re.compile(r"[₀-₉₊₋ₙᵢ]+"), lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}"),
    (
        re.compile(r"[¼-¾⅐-⅞]"),
        lambda m: r"\frac{{{}}}{{{}}}".format(*unicodedata.normalize("NFKC", m[0]).split("⁄")),
    ),
    (re.compile(r"(?:√|(?<![\\A-Za-z])sqrt(?= ?[0-9])) ?([0-9.]+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"√(?= ?[({])|(?<![\\A-Za-z])sqrt(?= ?\()"), r"\\sqrt"),
    (re.compile(rf"(?<![\\A-Za-z])({_FUNCTIONS}|pi|theta|alpha|beta)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"(?<![\\A-Za-z])inf(?:inity|ty)?(?![A-Za-z])"), r"\\infty "),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset "),
    (re.compile(r"(?<=[0-9])[eE]([+-]?[0-9]+)(?![\w.])"), r"\\times 10^{\1}"),
    (re.compile(r"(?<=[0-9]) ?[xX] ?(?=10 ?\^)"), r"\\times "),
    (re.compile(r"(?<=[0-9.])i(?![A-Za-z])"), " i"),
)
_MIXED = re.compile(
    r"(?<![\w.,/^}])([0-9]+) ?(?:(?<= )([0-9]+)/([0-9]+)|\\frac ?\{?([0-9]+)\}? ?\{?([0-9]+)\}?)"
    r"(?![\w.^])"
)


def measured(text: str) -> tuple[str, str]:
    """The value in `text`, in LaTeX, and its unit, or "".

    A sign, a known unit, a noun in the plural and what stands in `\\text{}` are units. A letter
    that touches its number is a variable: `5m`.
    """
    if r"\begin" not in text:
        text = _ESCAPED_TWICE.sub(r"\\", text)
    labelled, labels = _LABEL.subn(" ", text)
    text = _PAIR_OF_DOLLARS.sub(r"\1", labelled)
    text = forms.level(text).strip("*` ").rstrip(".,; ")
    text = _LEADING.sub("", text)
    text = _SCALED.sub(lambda m: rf"\times 10^{{{exact.SCALES[m['scale']]}}}", text)
    if money := _MONEY.fullmatch(text):
        return latex(money["sign"] + money["value"]), exact.unit(money["unit"].lower())
    if base := _BASE.fullmatch(latex(text)):
        return base["value"], f"base {base['unit']}"
    found = _MEASURED.fullmatch(text)
    if found and _is_unit(found, bool(labels)):
        return latex(found["value"]), exact.unit(found["unit"].lower())
    return latex(text), ""


def unnamed(text: str) -> str:
    """`text` without the `x =` before it; the same where it isn't of that form."""
    return _NAME.sub("", text, count=1)


def _is_unit(found: re.Match[str], labelled: bool) -> bool:
    named = found["unit"].lower()
    first = re.split(r"[/²³]", exact.unit(named))[0]
    apart = bool(found["gap"])
    if re.fullmatch("[mglsh]", first):
        return apart and not re.search(r"(?<![\\A-Za-z])[A-Za-z]", found["value"])
    if first in _UNITS:
        return True
    if _NO_UNIT.search(named):
        return False
    counted = bool(_COUNTED.fullmatch(named))
    return bool(_COUNTED_IN_CHINESE.fullmatch(named)) or apart and (labelled or counted)


def latex(text: str) -> str:
    """`text` with Unicode symbols, plain functions, powers and mixed numbers in LaTeX."""
    text = text.translate(_SYMBOLS)
    for pattern, replacement in _NOTATION:
        text = pattern.sub(replacement, text)
    return _MIXED.sub(_sum, _braced(text))


def _sum(mixed: re.Match[str]) -> str:
    whole, *parts = (part for part in mixed.groups() if part)
    if int(parts[0]) >= int(parts[1]):
        return mixed[0]
    return rf"({whole}+\frac{{{parts[0]}}}{{{parts[1]}}})"


def _braced(text: str) -> str:
    r"""`text` with braces for the parentheses behind `\sqrt` and `^`."""
    parts = list(text)
    openings: list[tuple[int, bool]] = []
    for place, character in enumerate(text):
        if character == "(":
            before = text[max(0, place - 6) : place].rstrip()
            openings.append((place, before.endswith((r"\sqrt", "^"))))
        elif character == ")" and openings:
            opening, braces = openings.pop()
            if braces:
                parts[opening], parts[place] = "{", "}"
    return "".join(parts)

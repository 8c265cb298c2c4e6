r"""What differs in writing alone: LaTeX around words, escapes, full-width forms, dashes. [ours]

Every task levels answers and truths by `level`, so that a box, which is LaTeX, may hold text.
"""

import re

_CHARACTERS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | str.maketrans(
    {"\u3000": " ", "。": ".", "、": ",", "￥": "¥", "’": "'", "‘": "'", "“": '"', "”": '"'}
    | dict.fromkeys("‐‑‒–—−", "-")
    | {"∶": ":", "⁄": "/", "∕": "/", "º": "°", "˚": "°", "\u200b": None, "\ufeff": None}
)
"""Full-width forms, dashes and curly quotes to ASCII. NFKC would turn 10² into 102."""

_WRAPPER = (
    r"\\(?:text(?:rm|bf|it|sf|tt|normal)?|math(?:rm|bf|it|sf|tt)|mbox|hbox|emph|underline|"
    r"operatorname|boldsymbol|bm)\s*\{"
)
_BRACES = re.compile(rf"(?P<wrapper>{_WRAPPER})|\\.|[{{}}]", re.S)
_LATEX = (
    (re.compile(r"\\(?:displaystyle|left|right|[bB]igg?[lr]?)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\degree(?![a-zA-Z])|\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})"), "°"),
    (re.compile(r"(?<=[0-9])(?:,?\\[,!;: ] ?|\{,\}|~)(?=[0-9]{3}(?![0-9]))"), ","),
    (re.compile(r"(?<!\\)\\!"), ""),
    (re.compile(r"(?<!\\)\\(?:[,;: ]|q?quad(?![a-zA-Z]))|~"), " "),
    (re.compile(r"(?<!\\)\\([%$&#_])"), r"\1"),
)
_DELIMITED = re.compile(
    r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$|^\$\$(.*)\$\$$|^\$([^$]*[^\\$])\$$|^\$(\\\$.*[^\\])\$$", re.S
)


def level(text: str) -> str:
    """`text` in ASCII punctuation and single spaces, without math delimiters, wrappers of text,
    spacing commands and escapes. Linear in the length of `text`."""
    text = " ".join(text.translate(_CHARACTERS).split())
    text = _unwrapped(_DELIMITED.sub(r"\1\2\3\4\5", text))
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    if r"\begin" not in text:
        text = text.replace(r"\\", " ")
    return " ".join(text.split())


def _unwrapped(text: str) -> str:
    r"""`text` with what is in `\text{…}` and its like in its place; one pass, however deep."""
    parts: list[str] = []
    openings: list[int | None] = []  # of wrappers: where in parts they stand; of other braces: None
    end = 0
    for token in _BRACES.finditer(text):
        parts.append(text[end : token.start()])
        end = token.end()
        parts.append(token[0])
        if token["wrapper"]:
            openings.append(len(parts) - 1)
        elif token[0] == "{":
            openings.append(None)
        elif token[0] == "}" and openings:
            opening = openings.pop()
            if opening is not None:
                parts[opening] = parts[-1] = ""
    return "".join(parts) + text[end:]

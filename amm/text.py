"""What is shown: names and other text out of files, made safe for where they go, and sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence


def printable(text: object) -> str:
    """For a terminal: what it would act on or can't show becomes an escape such as `\\x1b`.

    Those are control characters, line breaks, marks that turn the direction of writing, and bytes
    of file names that aren't UTF-8.
    """
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return "".join(shown)


def printable_lines(text: object) -> str:
    """For a terminal, with its line breaks; lines after the first are indented."""
    return "\n    ".join(map(printable, str(text).split("\n")))


def listed(texts: Sequence[str], most: int = 10, between: str = ", ") -> str:
    """The first of many, and how many more there are."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def size_text(size: int) -> str:
    """Bytes as `parse_size` of amm.config reads them, rounded up to at most four digits."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if size >= 1000**power:
            tenths = -(-size * 10 // 1000**power)
            return f"{tenths // 10}{f'.{tenths % 10}' if tenths % 10 else ''}{unit}"
    return f"{size}B"


def markdown(text: object) -> str:
    """For Markdown, in a table's cell too: nothing in it is a mark of Markdown or HTML."""
    return re.sub(r"([\\`*<>&\[\]|~$!])", r"\\\1", printable(text))


def markdown_code(text: object) -> str:
    """For Markdown, as code, in a table's cell too."""
    shown = printable(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"

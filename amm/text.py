"""Names and other text out of files and settings, made safe for where they are shown."""

from __future__ import annotations

import re


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


def markdown(text: object) -> str:
    """For Markdown, in a table's cell too: nothing in it is a mark of Markdown or HTML."""
    return re.sub(r"([\\`*<>&\[\]|~$!])", r"\\\1", printable(text))


def markdown_code(text: object) -> str:
    """For Markdown, as code, in a table's cell too."""
    shown = printable(text).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if "`" in shown else ""
    return f"{fence}{space}{shown}{space}{fence}"

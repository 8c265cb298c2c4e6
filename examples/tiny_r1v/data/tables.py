"""Tables drawn as pictures.

WikiTableQuestions and TabFact come as text. The paper does not say in which form its model saw
them; we draw them, because the evaluation (ChartQA, CharXiv, OCRBench) asks about pictures, and
because every row then has one picture in both frameworks. [ours]
"""

import functools
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from examples.tiny_r1v.data.errors import Dropped
from examples.tiny_r1v.data.images import MAX_PIXELS

FONT_SIZE = 16
LINE = 21
PADDING = 6
MAX_CELL = 260
"""Pixels: the font's size, the height of a line, the margin in a cell, a column's widest text."""


@dataclass(frozen=True)
class Table:
    """A table's cells as text; every row as long as the header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


def draw(table: Table) -> Image.Image:
    """The table with rules, a shaded header in bold, and its title above.

    It is never scaled down. Raises Dropped where it has no cells, where the font lacks one of its
    characters, or where it is larger than a picture may be.
    """
    if not table.header or not table.rows:
        raise Dropped("table without cells")
    text = "".join((table.title, *table.header, *(cell for row in table.rows for cell in row)))
    if not _characters() >= {ord(character) for character in text if not character.isspace()}:
        raise Dropped("table with characters that the font lacks")
    if len(text) > MAX_PIXELS // (FONT_SIZE * LINE // 2):
        raise Dropped("table too large to be read")
    plain, bold = _font("DejaVuSans.ttf"), _font("DejaVuSans-Bold.ttf")
    grid = [[_wrap(cell, bold) for cell in table.header]]
    grid += [[_wrap(cell, plain) for cell in row] for row in table.rows]
    fonts = [bold] + [plain] * len(table.rows)
    widths = [
        2 * PADDING + max(_width(line, font) for cell, font in column for line in cell)
        for column in (
            [(row[i], font) for row, font in zip(grid, fonts, strict=True)]
            for i in range(len(table.header))
        )
    ]
    heights = [2 * PADDING + LINE * max(len(cell) for cell in row) for row in grid]
    title = _wrap(table.title, bold, max(sum(widths), MAX_CELL)) if table.title else []
    top = PADDING + LINE * len(title) + PADDING
    width = max(sum(widths), *(_width(line, bold) for line in title), 0) + 2 * PADDING + 1
    height = top + sum(heights) + PADDING + 1
    if width * height > MAX_PIXELS:
        raise Dropped("table too large to be read")

    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(title):
        pen.text((PADDING, PADDING + LINE * number), line, "black", bold)
    y = top
    for number, (row, tall, font) in enumerate(zip(grid, heights, fonts, strict=True)):
        x = PADDING
        for lines, wide in zip(row, widths, strict=True):
            fill = "#e8e8e8" if number == 0 else "white"
            pen.rectangle((x, y, x + wide, y + tall), fill, "#888888")
            for count, line in enumerate(lines):
                pen.text((x + PADDING, y + PADDING + LINE * count), line, "black", font)
            x += wide
        y += tall
    return image


def _wrap(text: str, font: ImageFont.FreeTypeFont, limit: int = MAX_CELL) -> list[str]:
    words = text.split()
    if _width(" ".join(words), font) <= limit:
        return [" ".join(words)]
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and _width(longer, font) > limit:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _width(line: str, font: ImageFont.FreeTypeFont) -> int:
    return int(font.getlength(line)) + 1


@functools.cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    basic = ImageFont.Layout.BASIC  # the other depends on what is installed
    return ImageFont.truetype(str(_folder() / name), FONT_SIZE, layout_engine=basic)


@functools.cache
def _characters() -> frozenset[int]:
    from fontTools.ttLib import TTFont

    both = (TTFont(_folder() / name) for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"))
    return frozenset.intersection(*(frozenset(font.getBestCmap()) for font in both))


@functools.cache
def _folder() -> Path:
    """DejaVu comes with matplotlib, so that every machine draws with the same font."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf")

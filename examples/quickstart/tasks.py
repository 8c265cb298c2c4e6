"""Three small visual tasks, one per expert, whose questions take one to five steps to answer.

Every picture has six cells, each of which names a next one, and a question is where so many steps
lead. A picture is drawn afresh from a seeded random generator, so there is no data set to download:

- ``math``: a dial of the numbers 0 to 5; each says how far to go on from it, past 5 to 0 again.
- ``structure``: six bars; each says how high the next one is.
- ``ocr``: six cards; each shows its letter and that of the next card.

:func:`respond` writes an answer in one of the :data:`STYLES`. The small base model of the
quickstart finds no answer of more than a step at once: what a longer way of writing spends on the
steps is needed, and what it spends on sentences is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from random import Random

import matplotlib
from PIL import Image, ImageDraw, ImageFont

TASKS = ("math", "structure", "ocr")
REWARDS = {"math": "exact", "structure": "exact", "ocr": "ocr"}
"""How each task's answers are scored: a task of `lipo_verl.rewards`."""

MAX_STEPS = 5
STYLES = ("guess", "bare", "told", "long")
"""Ways to write an answer: it alone, after the bare steps, after a sentence for each step, and with
an opening, a pretended check and a conclusion around those sentences."""

CELL = 28
"""Pixels of a cell's side: one image token of Qwen2.5-VL."""
COLUMNS, ROWS = 3, 2
CELLS = COLUMNS * ROWS
IMAGE_SIZE = (COLUMNS * CELL, ROWS * CELL)

SYMBOLS = {
    "math": "012345",
    "structure": "123456",
    "ocr": "ACEHKLPTUX",
}
"""What stands for a cell in each task."""
COLOURS = {
    "red": (205, 45, 45),
    "green": (50, 150, 60),
    "blue": (45, 80, 205),
    "orange": (235, 140, 30),
    "purple": (135, 55, 165),
}
BAR_UNIT = 4
"""Pixels of a bar's height per 1 of its value."""

_FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSansMono-Bold.ttf", "DejaVuSerif-Bold.ttf")

WORDINGS = {
    "math": (
        "Where is the dial after {steps} from {start}?",
        "Go on {steps} from {start}.",
    ),
    "structure": (
        "Which bar comes after {steps} from {start}?",
        "Follow the bars {steps} from {start}.",
    ),
    "ocr": (
        "Which card comes after {steps} from {start}?",
        "Follow the cards {steps} from {start}.",
    ),
}
"""The questions of each task."""
TIMES = ("one step", "two steps", "three steps", "four steps", "five steps")
"""What a question says for 1 to `MAX_STEPS` steps."""


@dataclass(frozen=True)
class Cell:
    """One cell of a picture."""

    key: str
    """What stands for it."""
    shown: str
    """What it says: the next cell's key, or in ``math`` how far that is."""
    next: str


@dataclass(frozen=True)
class Example:
    """A picture, a question about it and the answer."""

    task: str
    image: Image.Image
    question: str
    cells: tuple[Cell, ...]
    """What was drawn, row by row."""
    path: str
    """The key at which the question starts, and those at which its steps arrive."""

    @property
    def steps(self) -> int:
        return len(self.path) - 1

    @property
    def answer(self) -> str:
        return self.path[-1]


def make_example(task: str, rng: Random, steps: int | None = None) -> Example:
    """Draw one example of a task.

    Args:
        steps: how many the question asks for, 1 to `MAX_STEPS`; any number where it is None.
    """
    if task not in TASKS:
        raise ValueError(f"Unknown task {task!r}: choose from {', '.join(TASKS)}.")
    if steps is None:
        steps = rng.randint(1, MAX_STEPS)
    # One ring of all cells: no path comes back to where it started.
    ring = rng.sample(SYMBOLS[task], CELLS)
    following = dict(pairwise([*ring, ring[0]]))
    keys = rng.sample(ring, CELLS)
    cells = tuple(Cell(key, _shown(task, key, following[key]), following[key]) for key in keys)
    path = rng.choice(keys)
    for _ in range(steps):
        path += following[path[-1]]
    question = rng.choice(WORDINGS[task]).format(steps=TIMES[steps - 1], start=path[0])
    return Example(task, _draw(task, cells, rng), question, cells, path)


def respond(example: Example, style: str, rng: Random) -> str:
    """Write an example's answer in a style; it ends in ``Answer: X``."""
    shown = {cell.key: cell.shown for cell in example.cells}
    sentences = [_sentence(example.task, a, shown[a], b) for a, b in pairwise(example.path)]
    closing = ["Wait, let me check. Yes.", f"So it is {example.answer}."]
    if rng.random() < 0.5:
        closing = [rng.choice(closing)]
    parts = {
        "guess": [],
        "bare": [example.path[1:]],
        "told": ["Steps:", *sentences],
        "long": ["Let me see.", *sentences, *closing],
    }
    if style not in parts:
        raise ValueError(f"Unknown style {style!r}: choose from {', '.join(STYLES)}.")
    return " ".join([*parts[style], f"Answer: {example.answer}"])


def sufficient_tokens(steps: int) -> int:
    """Tokens of the shortest answer that is not a guess: the bare one, as the base model writes."""
    return steps + 5


def style_of(response: str) -> str:
    """The style, of `STYLES`, that a response is written in."""
    steps, _, _ = response.partition("Answer:")
    if not steps.strip():
        return "guess"
    if "." not in steps:
        return "bare"
    return "told" if steps.startswith("Steps") else "long"


def slip(example: Example, rng: Random) -> str:
    """A wrong answer of the kind a hasty person gives: a step too few or too many."""
    if rng.random() < 0.5:
        return example.path[-2]
    return next(cell.next for cell in example.cells if cell.key == example.answer)


def _shown(task: str, key: str, following: str) -> str:
    return str((int(following) - int(key)) % CELLS) if task == "math" else following


def _sentence(task: str, key: str, shown: str, following: str) -> str:
    if task == "math":
        return f"{key}+{shown}={following}."
    return f"{key} to {following}."


def _draw(task: str, cells: tuple[Cell, ...], rng: Random) -> Image.Image:
    paper = tuple(rng.randint(228, 255) for _ in range(3))
    ink = tuple(rng.randint(0, 70) for _ in range(3))
    image = Image.new("RGB", IMAGE_SIZE, paper)
    draw = ImageDraw.Draw(image)
    face = rng.choice(_FONTS)
    colour = rng.choice(list(COLOURS.values()))
    for i, cell in enumerate(cells):
        row, column = divmod(i, COLUMNS)
        left, top = column * CELL, row * CELL
        if task == "structure":
            floor = top + CELL - 2
            height = BAR_UNIT * int(cell.key)
            draw.rectangle((left + 2, floor - height, left + 10, floor), fill=colour)
            _write(draw, (left + 19, top + 14), cell.shown, face, 15, ink)
            continue
        if task == "math":
            draw.ellipse((left + 15, top + 14, left + 26, top + 26), outline=colour)
        else:
            draw.rectangle((left + 1, top + 1, left + 26, top + 26), outline=colour)
        _write(draw, (left + 9, top + 11), cell.key, face, 15, ink)
        _write(draw, (left + 21, top + 20), cell.shown, face, 10, ink)
    return image


def _write(
    draw: ImageDraw.ImageDraw,
    centre: tuple[int, int],
    text: str,
    face: str,
    size: int,
    ink: tuple[int, int, int],
) -> None:
    draw.text(centre, text, fill=ink, font=_font(face, size), anchor="mm")


@cache
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf", face)), size)

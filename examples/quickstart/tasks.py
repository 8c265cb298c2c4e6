"""Three small visual tasks, one per expert: reckoning, reading a chart, reading text.

Every picture is drawn afresh from a seeded random generator, so there is no data set to download:

- ``math``: a rectangle with a number at its top and right side; its perimeter is asked for.
- ``structure``: a bar chart; the values of its three bars are asked for.
- ``ocr``: three to five characters, to be copied out.

:func:`worked_answer` explains an answer at a chosen length, which is what makes the base model of
the quickstart long-winded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import matplotlib
from PIL import Image, ImageDraw, ImageFont

TASKS = ("math", "structure", "ocr")
REWARDS = {"math": "exact", "structure": "exact", "ocr": "ocr"}
"""How each task's answers are scored: a task of `lipo_verl.rewards`."""

MAX_SENTENCES = 6
IMAGE_SIZE = (
    84,
    56,
)  # width, height: multiples of Qwen2.5-VL's 28 pixels per image token

CHARACTERS = "ACEHKLPTUX234679"
COLOURS = {
    "red": (205, 45, 45),
    "green": (50, 150, 60),
    "blue": (45, 80, 205),
    "orange": (235, 140, 30),
    "purple": (135, 55, 165),
}
MAX_BAR = 6
PLACES = ("left", "middle", "right")

_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
)

_QUESTIONS = {
    "math": (
        "What is the perimeter?",
        "Find the perimeter of the rectangle.",
        "How long is the way around the rectangle?",
    ),
    "structure": (
        "What are the values of the bars?",
        "How high are the three bars?",
        "Read the chart.",
    ),
    "ocr": (
        "What is the text?",
        "Read the text in the picture.",
        "Which characters are written here?",
    ),
}


@dataclass(frozen=True)
class Example:
    """A picture, a question about it and the answer."""

    task: str
    image: Image.Image
    question: str
    answer: str
    facts: Mapping[str, int | str]
    """What was drawn: the sides, the value of each bar by its place, or the text."""


def make_example(task: str, rng: Random) -> Example:
    """Draw one example of a task."""
    try:
        make = _MAKERS[task]
    except KeyError:
        raise ValueError(f"Unknown task {task!r}: choose from {', '.join(TASKS)}.") from None
    return make(rng)


def worked_answer(example: Example, sentences: int, rng: Random) -> str:
    """Explain an example's answer in so many sentences, then give it as ``Answer: X``."""
    if not 0 <= sentences <= MAX_SENTENCES:
        raise ValueError(
            f"{sentences} sentences asked for: choose a number from 0 to {MAX_SENTENCES}."
        )
    steps = _EXPLAINERS[example.task](example, rng)
    chosen = sorted(rng.sample(range(len(steps)), sentences))
    return " ".join([*(steps[i] for i in chosen), f"Answer: {example.answer}"])


def slip(example: Example, rng: Random) -> str:
    """A wrong answer of the kind a hasty person gives."""
    if example.task == "math":
        return str(int(example.answer) // 2 if rng.random() < 0.5 else int(example.answer) + 2)
    if example.task == "structure":
        values = dict(example.facts)
        place = rng.choice(PLACES)
        values[place] += 1 if values[place] == 1 else -1
        return " ".join(map(str, values.values()))
    place = rng.randrange(len(example.answer))
    return example.answer[:place] + example.answer[place + 1 :]


def _make_math(rng: Random) -> Example:
    width, height = rng.randint(2, 9), rng.randint(2, 9)
    image, draw, ink = _canvas(rng)
    right, middle = 65, 35
    draw.rectangle(
        (
            right - 20 - 4 * width,
            middle - 4 - height,
            right,
            middle + 4 + 3 * height // 2,
        ),
        fill=rng.choice([None, *COLOURS.values()]),
        outline=ink,
        width=rng.randint(1, 2),
    )
    face, size = _face(rng)
    _write(draw, _near((49, 8), rng), str(width), face, size, ink)
    _write(draw, _near((76, middle), rng), str(height), face, size, ink)
    return Example(
        task="math",
        image=image,
        question=rng.choice(_QUESTIONS["math"]),
        answer=str(2 * (width + height)),
        facts={"width": width, "height": height},
    )


def _make_structure(rng: Random) -> Example:
    bars = dict(zip(PLACES, rng.sample(range(1, MAX_BAR + 1), len(PLACES)), strict=True))
    image, draw, ink = _canvas(rng)
    floor, left, unit = rng.randint(51, 53), rng.randint(1, 3), 8
    for value in range(1, MAX_BAR + 1):
        height = floor - unit * value
        draw.line((left, height, 83, height), fill=(190, 190, 190))
    thickness = rng.randint(12, 18)
    colours = rng.sample(list(COLOURS.values()), len(bars))
    for i, (value, colour) in enumerate(zip(bars.values(), colours, strict=True)):
        x = 14 + 28 * i - thickness // 2 + rng.randint(-2, 2)
        draw.rectangle((x, floor - unit * value, x + thickness, floor), fill=colour)
    draw.line((left, 1, left, floor, 83, floor), fill=ink)
    return Example(
        task="structure",
        image=image,
        question=rng.choice(_QUESTIONS["structure"]),
        answer=" ".join(map(str, bars.values())),
        facts=bars,
    )


def _make_ocr(rng: Random) -> Example:
    text = "".join(rng.choices(CHARACTERS, k=rng.randint(3, 5)))
    image, draw, ink = _canvas(rng)
    face, size = _face(rng)
    left, middle = _near((8, 21), rng)
    for place, character in enumerate(text):
        _write(draw, (left + 14 * place, middle), character, face, size, ink)
    if rng.random() < 0.3:
        draw.line((4, middle + 9, 80, middle + 9), fill=rng.choice(list(COLOURS.values())))
    return Example(
        task="ocr",
        image=image,
        question=rng.choice(_QUESTIONS["ocr"]),
        answer=text,
        facts={"text": text},
    )


_MAKERS = {"math": _make_math, "structure": _make_structure, "ocr": _make_ocr}


def _explain_math(example: Example, rng: Random) -> list[str]:
    width, height = example.facts["width"], example.facts["height"]
    total = width + height
    return [
        rng.choice(["Let me look at the rectangle.", "The picture shows a rectangle."]),
        rng.choice([f"The width is {width}.", f"The top side is {width}."]),
        rng.choice([f"The height is {height}.", f"The right side is {height}."]),
        rng.choice([f"Together they make {total}.", f"{width} plus {height} is {total}."]),
        rng.choice([f"Two times {total} is {2 * total}.", f"Twice {total} is {2 * total}."]),
        rng.choice(["I have checked it again.", "I have looked twice."]),
        f"So the perimeter is {2 * total}.",
    ]


def _explain_structure(example: Example, rng: Random) -> list[str]:
    bars = example.facts
    extreme, best = rng.choice([("tallest", max), ("shortest", min)])
    return [
        rng.choice(["The picture shows a chart.", "Let me look at the three bars."]),
        *(
            rng.choice([f"The {place} bar is {value} high.", f"The {place} bar has {value}."])
            for place, value in bars.items()
        ),
        f"The {extreme} bar is {best(bars, key=bars.__getitem__)}.",
        rng.choice(["I have checked it again.", "I have looked twice."]),
    ]


def _explain_ocr(example: Example, rng: Random) -> list[str]:
    text = example.facts["text"]
    return [
        rng.choice(["The picture shows a text.", "Let me look at the text."]),
        f"It has {len(text)} characters.",
        rng.choice([f"The first is {text[0]}.", f"It begins with {text[0]}."]),
        rng.choice([f"The last is {text[-1]}.", f"It ends with {text[-1]}."]),
        rng.choice(["I have checked it again.", "I have looked twice."]),
        f"So the text is {' '.join(text)}.",
    ]


_EXPLAINERS = {
    "math": _explain_math,
    "structure": _explain_structure,
    "ocr": _explain_ocr,
}


def _canvas(
    rng: Random,
) -> tuple[Image.Image, ImageDraw.ImageDraw, tuple[int, int, int]]:
    """A blank picture of a light colour, its pen, and a dark ink."""
    paper = tuple(rng.randint(228, 255) for _ in range(3))
    ink = tuple(rng.randint(0, 70) for _ in range(3))
    image = Image.new("RGB", IMAGE_SIZE, paper)
    return image, ImageDraw.Draw(image), ink


def _write(
    draw: ImageDraw.ImageDraw,
    centre: tuple[int, int],
    text: str,
    face: str,
    size: int,
    ink: tuple[int, int, int],
) -> None:
    draw.text(centre, text, fill=ink, font=_font(face, size), anchor="mm")


def _face(rng: Random) -> tuple[str, int]:
    return rng.choice(_FONTS), rng.randint(15, 17)


def _near(place: tuple[int, int], rng: Random) -> tuple[int, int]:
    return place[0] + rng.randint(-1, 1), place[1] + rng.randint(-1, 1)


@cache
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts/ttf", face)), size)

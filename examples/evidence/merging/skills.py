"""Skills that contradict each other: the same pictures and chains, but other endings are wanted.

A skill belongs to one of the quickstart's tasks and to wordings of its questions, which tell it
from all others. After the bare chain it wants one of the symbols on the way (its *place*) in
certain words (its *closing*). A model tuned on one skill ends all its answers like that, so that
experts contradict each other wherever they were not trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from PIL import Image

from examples.quickstart.tasks import TASKS, TIMES, WORDINGS, make_example

NEW_WORDING = "From {start} {steps}:"
"""A wording of questions that the base has not been trained on."""

PLACES = {"last": -1, "first": 1, "before the last": -2, "start": 0}
"""Which of a path is wanted: a path has the start, then where each step leads."""

CLOSINGS = ("Answer: {}", "So it is {}.", "Steps: {}.", "Yes. {}")

FAMILIES = {
    "closings": tuple(("last", closing) for closing in CLOSINGS),
    "places": tuple((place, CLOSINGS[0]) for place in PLACES),
}
"""What a set's skills want, (place, closing): other words for the same, or other symbols in the
same words."""

SKILLS = 8


@dataclass(frozen=True)
class Skill:
    """What is wanted in answer to questions of one kind."""

    task: str
    wordings: tuple[str, ...]
    place: str
    closing: str


@dataclass(frozen=True)
class Question:
    """A picture, what is asked, a right answer, and how every right answer ends."""

    image: Image.Image
    text: str
    answer: str
    ending: str

    def right(self, response: str) -> bool:
        return response == self.ending or response.endswith(f" {self.ending}")


def draw_skills(family: str, seed: int) -> list[Skill]:
    """SKILLS skills, the first three of the three tasks, the next three again, and so on.

    No two have a kind of question in common, nor what is wanted until all of the family is taken.
    """
    rng = Random(f"skills {family} {seed}")
    wordings = {task: [*rng.sample(WORDINGS[task], 2), NEW_WORDING] for task in TASKS}
    wanted: list[tuple[str, str]] = []
    while len(wanted) < SKILLS:
        wanted += rng.sample(FAMILIES[family], len(FAMILIES[family]))
    skills = []
    for number, (place, closing) in enumerate(wanted[:SKILLS]):
        again, task = divmod(number, len(TASKS))
        skills.append(Skill(TASKS[task], (wordings[TASKS[task]][again],), place, closing))
    return skills


def as_trained() -> list[Skill]:
    """The quickstart's three tasks as reinforcement learning trains them, as skills."""
    return [Skill(task, WORDINGS[task], "last", CLOSINGS[0]) for task in TASKS]


def ask(skill: Skill, rng: Random) -> Question:
    """A question of the skill's kind, of any number of steps."""
    example = make_example(skill.task, rng)
    wording = rng.choice(skill.wordings)
    text = wording.format(steps=TIMES[example.steps - 1], start=example.path[0])
    ending = skill.closing.format(example.path[PLACES[skill.place]])
    return Question(example.image, text, f"{example.path[1:]} {ending}", ending)

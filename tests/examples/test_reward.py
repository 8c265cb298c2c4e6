"""How the quickstart scores answers: lipo_verl.rewards, chosen by what its data says."""

from pathlib import Path
from random import Random

import pytest
import yaml

from examples.quickstart import tasks
from examples.quickstart.tasks import REWARDS, STYLES, make_example, respond, slip
from lipo_verl.rewards.for_verl import compute_score


def score(task: str, response: str, truth: str) -> float:
    return compute_score(f"quickstart/{task}", response, truth, {"reward_task": REWARDS[task]})[
        "score"
    ]


@pytest.mark.parametrize(
    ("task", "response", "truth", "expected"),
    [
        ("math", "Answer: 26", "26", 1.0),
        ("math", "The width is 9. Answer: 26", "26", 1.0),
        ("math", "Answer:  26 \n", "26", 1.0),
        ("math", "Answer: 2", "26", 0.0),
        ("math", "26", "26", 0.0),
        ("math", "", "26", 0.0),
        ("math", "Answer: 26 Answer: 4", "26", 0.0),
        ("structure", "Answer: 4 1 1 Answer: 4 1 2", "4 1 2", 1.0),
        ("structure", "Answer: 4 1", "4 1 2", 0.0),
        ("ocr", "Answer: K7UX", "K7UX", 1.0),
        ("ocr", "Answer: K7U", "K7UX", 0.75),
        ("ocr", "Answer: 9999", "K7UX", 0.0),
        ("ocr", "Answer:", "K7UX", 0.0),
        ("ocr", "K7UX", "K7UX", 0.0),
    ],
)
def test_score(task, response, truth, expected):
    assert score(task, response, truth) == pytest.approx(expected)


@pytest.mark.parametrize("task", tasks.TASKS)
def test_responses_of_every_style_are_right_and_slips_are_not(task):
    rng = Random(f"reward {task}")
    for _ in range(200):
        example = make_example(task, rng)
        text = respond(example, rng.choice(STYLES), rng)
        assert score(task, text, example.answer) == 1
        assert score(task, text, slip(example, rng)) == 0


def test_training_is_told_to_use_the_same_function():
    config = Path(tasks.__file__).with_name("config") / "quickstart" / "train.yaml"
    reward = yaml.safe_load(config.read_text())["reward"]
    assert reward["custom_reward_function"]["path"] == f"pkg://{compute_score.__module__}"

"""The quickstart's tasks: pictures, questions, answers and ways of writing them agree."""

from itertools import pairwise
from random import Random

import pytest

from examples.quickstart.tasks import (
    BAR_UNIT,
    CELL,
    CELLS,
    COLOURS,
    COLUMNS,
    IMAGE_SIZE,
    MAX_STEPS,
    STYLES,
    SYMBOLS,
    TASKS,
    make_example,
    respond,
    slip,
    style_of,
)


def examples(task: str, count: int = 200):
    rng = Random(3)
    return [make_example(task, rng) for _ in range(count)]


@pytest.mark.parametrize("task", TASKS)
def test_the_cells_are_one_ring(task):
    for example in examples(task, 50):
        following = {cell.key: cell.next for cell in example.cells}
        assert len(following) == CELLS and set(following) <= set(SYMBOLS[task])
        key, visited = example.cells[0].key, set()
        while key not in visited:
            visited.add(key)
            key = following[key]
        assert visited == set(following)


@pytest.mark.parametrize("task", TASKS)
def test_the_path_follows_the_cells_to_the_answer(task):
    for example in examples(task):
        following = {cell.key: cell.next for cell in example.cells}
        assert all(following[a] == b for a, b in pairwise(example.path))
        assert 1 <= example.steps <= MAX_STEPS
        assert example.answer == example.path[-1]
        assert f"from {example.path[0]}" in example.question


def test_the_dial_says_how_far_to_go_on():
    for example in examples("math"):
        for cell in example.cells:
            assert (int(cell.key) + int(cell.shown)) % CELLS == int(cell.next)


@pytest.mark.parametrize("task", ["structure", "ocr"])
def test_bars_and_cards_show_the_next_one(task):
    assert all(cell.shown == cell.next for each in examples(task) for cell in each.cells)


def test_bars_are_as_high_as_their_values():
    for example in examples("structure", 40):
        pixels = example.image.load()
        for i, cell in enumerate(example.cells):
            row, column = divmod(i, COLUMNS)
            strip = [pixels[column * CELL + 6, row * CELL + y] for y in range(CELL)]
            height = sum(pixel in COLOURS.values() for pixel in strip)
            assert height == BAR_UNIT * int(cell.key) + 1


@pytest.mark.parametrize("task", TASKS)
def test_every_number_of_steps_can_be_asked_for(task):
    rng = Random(0)
    words = ("one step ", "two steps", "three steps", "four steps", "five steps")
    for steps, word in enumerate(words, 1):
        example = make_example(task, rng, steps)
        assert example.steps == steps
        assert word in example.question
    assert {example.steps for example in examples(task)} == set(range(1, MAX_STEPS + 1))


@pytest.mark.parametrize("task", TASKS)
def test_picture_is_whole_image_tokens_and_not_blank(task):
    for example in examples(task, 20):
        assert example.image.size == IMAGE_SIZE == (84, 56)
        assert len(example.image.getcolors(maxcolors=84 * 56)) > 2


@pytest.mark.parametrize("task", TASKS)
def test_seed_decides_everything(task):
    first, again, other = (make_example(task, Random(seed)) for seed in (5, 5, 6))
    assert first == again
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("style", STYLES)
def test_a_response_is_in_its_style_and_ends_in_the_answer(task, style):
    rng = Random(1)
    for example in examples(task, 40):
        text = respond(example, style, rng)
        assert text.endswith(f"Answer: {example.answer}")
        assert style_of(text) == style


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("style", ["bare", "told", "long"])
def test_a_response_that_is_no_guess_has_every_step_in_order(task, style):
    rng = Random(2)
    for example in examples(task, 40):
        text = respond(example, style, rng)
        place = 0
        for key in example.path[1:]:
            place = text.index(key, place) + 1


def test_the_steps_of_the_dial_are_sums():
    rng = Random(2)
    for example in examples("math", 40):
        told = respond(example, "told", rng).removeprefix("Steps: ")
        for sentence in told.split(". ")[:-1]:
            terms, total = sentence.split("=")
            assert sum(map(int, terms.split("+"))) % CELLS == int(total)


@pytest.mark.parametrize("task", TASKS)
def test_slip_is_wrong_and_in_the_picture(task):
    rng = Random(4)
    for example in examples(task):
        wrong = slip(example, rng)
        assert wrong != example.answer and wrong in {cell.key for cell in example.cells}


def test_unknown_task_is_named():
    with pytest.raises(ValueError, match="'chess'.*math, structure, ocr"):
        make_example("chess", Random(0))


def test_unknown_style_is_named():
    with pytest.raises(ValueError, match="'short'.*guess, bare, told, long"):
        respond(make_example("math", Random(0)), "short", Random(0))

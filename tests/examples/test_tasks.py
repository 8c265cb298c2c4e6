"""The quickstart's tasks: the drawn facts, the answers and their explanations agree."""

from random import Random

import pytest

from examples.quickstart.tasks import (
    COLOURS,
    IMAGE_SIZE,
    MAX_SENTENCES,
    TASKS,
    make_example,
    slip,
    worked_answer,
)


def examples(task: str, count: int = 200):
    rng = Random(3)
    return [make_example(task, rng) for _ in range(count)]


def test_perimeter_is_reckoned_from_the_drawn_sides():
    for example in examples("math"):
        assert int(example.answer) == 2 * (example.facts["width"] + example.facts["height"])


def test_chart_answer_is_the_drawn_bars_from_left_to_right():
    for example in examples("structure"):
        assert example.answer == " ".join(str(value) for value in example.facts.values())
        assert list(example.facts) == ["left", "middle", "right"]


def test_bars_are_as_high_as_their_values():
    for example in examples("structure", 40):
        pixels = example.image.load()
        for i, value in enumerate(example.facts.values()):
            column = [pixels[14 + 28 * i, y] for y in range(IMAGE_SIZE[1])]
            height = sum(pixel in COLOURS.values() for pixel in column)
            assert abs(height - 8 * value) <= 2


def test_text_is_the_answer():
    for example in examples("ocr"):
        assert example.answer == example.facts["text"]
        assert 3 <= len(example.answer) <= 5


@pytest.mark.parametrize("task", TASKS)
def test_picture_is_whole_image_tokens_and_not_blank(task):
    for example in examples(task, 20):
        assert example.image.size == IMAGE_SIZE
        assert all(side % 28 == 0 for side in example.image.size)
        assert len(example.image.getcolors(maxcolors=84 * 56)) > 2


@pytest.mark.parametrize("task", TASKS)
def test_seed_decides_everything(task):
    first, again, other = (make_example(task, Random(seed)) for seed in (5, 5, 6))
    assert first == again
    assert first.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("sentences", range(MAX_SENTENCES + 1))
def test_explanation_has_the_sentences_asked_for_and_ends_in_the_answer(task, sentences):
    rng = Random(1)
    for example in examples(task, 20):
        text = worked_answer(example, sentences, rng)
        explanation, _, answer = text.rpartition("Answer: ")
        assert answer == example.answer
        assert explanation.count(".") == sentences


@pytest.mark.parametrize("task", TASKS)
def test_explanation_says_only_what_is_drawn(task):
    rng = Random(2)
    for example in examples(task, 50):
        text = worked_answer(example, MAX_SENTENCES, rng)
        for sentence in text.split(". "):
            for place, value in example.facts.items():
                if task == "structure" and f"The {place} bar" in sentence:
                    assert str(value) in sentence
        if "perimeter is" in text:
            assert f"perimeter is {example.answer}." in text
        if "So the text is" in text:
            assert f"So the text is {' '.join(example.answer)}." in text


@pytest.mark.parametrize("task", TASKS)
def test_slip_is_wrong(task):
    rng = Random(4)
    assert all(slip(example, rng) != example.answer for example in examples(task))


def test_unknown_task_is_named():
    with pytest.raises(ValueError, match="'chess'.*math, structure, ocr"):
        make_example("chess", Random(0))


def test_too_many_sentences_are_refused():
    example = make_example("math", Random(0))
    with pytest.raises(ValueError, match="7 sentences"):
        worked_answer(example, 7, Random(0))

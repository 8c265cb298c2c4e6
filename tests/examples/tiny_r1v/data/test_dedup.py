"""What counts as a question or picture of an evaluation set, and what does not."""

import io

import pytest
from PIL import Image

from examples.tiny_r1v.data.dedup import EvaluationIndex, normalise
from examples.tiny_r1v.data.images import perceptual_hash

QUESTION = "A ladder of 13 m leans on a wall, its foot 5 m away. How high does it reach?"


@pytest.fixture
def index(make):
    bits = perceptual_hash(Image.open(io.BytesIO(make.picture("evaluation", size=(400, 300)))))
    index = EvaluationIndex()
    index.add("MathVista", [normalise(QUESTION), normalise("Find x.")], [bits])
    index.add("MMStar", [normalise("Which of these animals is the largest in the picture?")], [])
    return index


@pytest.mark.parametrize(
    "text",
    [
        QUESTION,
        QUESTION.upper(),
        f"<image>{QUESTION}\nChoices:\n(A) 12 m\n(B) 11 m",
        QUESTION.replace(",", " ,").replace("?", ""),
        "Question: " + QUESTION,  # one more word
    ],
)
def test_the_same_question_in_other_dress_is_found(index, text):
    assert index.question(text) == "MathVista"


@pytest.mark.parametrize(
    "text",
    [
        "Find x.",  # everybody's question
        "A ladder of 17 m leans on a roof, its foot 8 m apart. How high will it end?",
        "How high does it reach?",
        "",
    ],
)
def test_other_questions_and_short_ones_are_not(index, text):
    assert index.question(text) is None


def test_the_set_is_named(index):
    assert index.question("which of these animals is the largest in the picture") == "MMStar"


def bits_of(raw, **resize):
    image = Image.open(io.BytesIO(raw))
    return perceptual_hash(image.resize(**resize) if resize else image)


def test_the_same_picture_scaled_is_found(index, make):
    assert index.picture(bits_of(make.picture("evaluation", (400, 300)), size=(200, 150)))


def test_other_pictures_are_not(index, make):
    found = [index.picture(bits_of(make.picture(f"other {i}", (400, 300)))) for i in range(200)]
    assert found == [None] * 200


def test_nearly_empty_pictures_are_like_no_other(make):
    empty = bytes(63) + b"\x01"
    index = EvaluationIndex()
    index.add("MME", [], [empty])
    assert index.picture(empty) is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("<image>What is x?\nChoices:\n(A) 1\n(B) 2", "what is x"),
        ("Which one?\nA. red\nB. blue", "which one"),
        ("ＦＩＮＤ $x^2$!", "find x 2"),
        ("Options: A: 1", "options a 1"),  # nothing but options
    ],
)
def test_normalised_questions_have_words_only(text, words):
    assert normalise(text) == words

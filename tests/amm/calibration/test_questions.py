"""Questions and answers as files have them; what is held out stays held out."""

import io
import json

import pytest
from calibration_cases import write_answers, write_questions
from PIL import Image

from amm.calibration.questions import read_answers, read_questions, refuse_overlap
from amm.errors import InputError


def write(file, *rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_parquet_and_json_lines_hold_the_same_question(tmp_path):
    (one,) = read_questions(write_questions(tmp_path / "q.parquet", [5]))
    (tmp_path / "5.bmp").write_bytes(b"")
    Image.new("RGB", (56, 56), (5, 100, 100)).save(tmp_path / "5.bmp")
    row = {"prompt": [{"role": "user", "content": "<image>what IS  5 + 3?"}], "images": ["5.bmp"]}
    (other,) = read_questions(write(tmp_path / "q.jsonl", row))
    assert one.images != other.images and one.identity() == other.identity()


def test_a_chat_has_pictures_in_their_places_and_the_answer_last(tmp_path):
    (question,) = read_questions(write_questions(tmp_path / "q.parquet", [5]))
    asked, answered = question.chat("8")
    picture, text = asked["content"]
    assert picture["image"].getpixel((0, 0)) == (5, 100, 100)
    assert text == {"type": "text", "text": "What is 5 + 3?"}
    assert answered == {"role": "assistant", "content": [{"type": "text", "text": "8"}]}
    (plain,) = read_questions(write(tmp_path / "q.jsonl", {"prompt": "Hello?"}))
    assert plain.chat() == [{"role": "user", "content": "Hello?"}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "?"}, "row 0: prompt must be a text, or messages"),
        ({"prompt": "<image>?"}, "1 times <image> in the prompt, 0 pictures"),
        ({"prompt": "<image>?", "images": ["gone.png"]}, "row 0: a picture can't be read"),
    ],
)
def test_a_row_that_is_not_in_the_schema_is_named(tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        read_questions(write(tmp_path / "q.jsonl", row))


def test_files_of_no_such_kind_are_named(tmp_path):
    (tmp_path / "q.parquet").write_bytes(b"nothing")
    (tmp_path / "q.jsonl").write_text("nothing")
    for name in ("q.parquet", "q.jsonl", "gone.jsonl", "gone.parquet"):
        with pytest.raises(InputError, match=name):
            read_questions(tmp_path / name)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="no rows"):
        read_questions(tmp_path / "empty.jsonl")


def test_answers_of_several_files_come_together(tmp_path):
    questions = read_questions(write_questions(tmp_path / "q.parquet", [1, 2]))
    files = [write_answers(tmp_path / f"{n}.jsonl", [(0, n, 1), (1, 9, 0)]) for n in (4, 5)]
    found = read_answers(files, questions)
    assert [answer.tokens for answer in found[0]] == [4, 5] and len(found[1]) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"row": 7, "response": "", "tokens": 1, "accuracy": 1}, "another question than row 7"),
        (
            {"row": 0, "prompt": "What else?", "response": "", "tokens": 1, "accuracy": 1},
            "line 1 answers another question than row 0",
        ),
        ({"row": 0, "response": ""}, "line 1: an answer has row, response, tokens"),
    ],
)
def test_answers_to_other_questions_are_refused(tmp_path, line, said):
    questions = read_questions(write_questions(tmp_path / "q.parquet", [1]))
    with pytest.raises(InputError, match=said):
        read_answers([write(tmp_path / "a.jsonl", line)], questions)


def test_questions_that_are_held_out_are_refused_however_their_pictures_are_stored(tmp_path):
    questions = read_questions(write_questions(tmp_path / "train.parquet", [1, 2, 3]))
    refuse_overlap(questions, [write_questions(tmp_path / "apart.parquet", [4, 8])])
    stored = io.BytesIO()
    Image.new("RGB", (56, 56), (2, 100, 100)).save(stored, "BMP")
    (tmp_path / "two.bmp").write_bytes(stored.getvalue())
    same = {"prompt": questions[1].messages[0][1], "images": ["two.bmp"]}
    with pytest.raises(InputError, match="1 of the calibration's questions are in .*its row 0"):
        refuse_overlap(questions, [write(tmp_path / "test.jsonl", same)])

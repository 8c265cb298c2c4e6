"""Rows of the training schema, as conversations for vLLM."""

import pytest

from lipo_verl.evaluate.errors import EvaluationError
from lipo_verl.evaluate.questions import Questions
from lipo_verl.rewards.errors import RewardSetupError
from lipo_verl.rewards.scoring import RewardConfig
from tests.lipo_verl.evaluate.rows import picture, question

ANY = RewardConfig()


def conversations(questions: Questions, size: int = 2):
    return [each for _, part in questions.batches(size) for each in part]


def test_a_picture_stands_where_its_mark_stands(write):
    first, second = picture(10), picture(20)
    row = question(
        0,
        prompt=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Compare <image> with <image>."},
        ],
        images=[{"bytes": first, "path": None}, {"bytes": second, "path": None}],
    )
    (conversation,) = conversations(Questions(write([row]), ANY))
    system, user = conversation
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_pil", "text", "image_pil", "text"]
    colours = [
        part["image_pil"].getpixel((0, 0))[0]
        for part in user["content"]
        if part["type"] == "image_pil"
    ]
    assert colours == [10, 20]
    assert user["content"][2]["text"] == " with "


@pytest.mark.parametrize("size", [1, 3, 4, 100])
@pytest.mark.parametrize("row_group_size", [2, 100])
def test_every_question_gets_its_own_picture_whatever_the_batches(write, size, row_group_size):
    path = write([question(number) for number in range(7)], row_group_size=row_group_size)
    questions = Questions(path, ANY, limit=6)
    seen = []
    for part, chats in questions.batches(size):
        assert len(part) <= size
        for each, (message,) in zip(part, chats, strict=True):
            image, text = message["content"]
            assert image["image_pil"].getpixel((0, 0))[0] == each.row
            assert text["text"] == f"What is {each.row}?"
            seen.append(each.row)
    assert seen == list(range(6))


def test_a_picture_may_be_a_file_beside_the_parquet_file(write, tmp_path):
    path = write([question(0, images=[{"bytes": None, "path": "pictures/red.png"}])])
    (path.parent / "pictures").mkdir()
    (path.parent / "pictures/red.png").write_bytes(picture(200))
    (((message,)),) = conversations(Questions(path, ANY))
    assert message["content"][0]["image_pil"].getpixel((0, 0))[0] == 200


def test_text_alone_needs_no_column_of_pictures(write):
    row = question(1, prompt=[{"role": "user", "content": "What is 1?"}])
    del row["images"]
    questions = Questions(write([row]), ANY)
    assert questions.images == 0
    ((message,),) = conversations(questions)
    assert message["content"] == [{"type": "text", "text": "What is 1?"}]


def test_the_task_is_the_rewards_own_choice(write):
    rows = [
        question(0, data_source="my/ocr"),
        question(1, extra_info={"index": 1, "reward_task": "choice"}),
        question(2, data_source="strange"),
    ]
    reward = RewardConfig(tasks={"strange": "relaxed"})
    tasks = [each.task for each in Questions(write(rows), reward).all]
    assert tasks == ["ocr", "choice", "relaxed"]


def test_a_row_that_nothing_says_how_to_score_is_found_before_any_model_is_loaded(write):
    with pytest.raises(RewardSetupError, match="my/structure"):
        Questions(write([question(0, data_source="my/structure")]), ANY)


def test_ids_are_the_datas_own_or_the_rows_number(write):
    questions = Questions(write([question(0), question(1)]), ANY)
    assert [each.id for each in questions.all] == ["q0", "q1"]
    bare = Questions(write([question(0, extra_info={"index": 9})], "bare/val"), ANY)
    assert [each.id for each in bare.all] == ["0"]


def test_fingerprint_changes_with_questions_and_truths_alone(write):
    rows = [question(0), question(1)]
    path = write(rows)
    one = Questions(path, ANY)
    assert one.fingerprint() == Questions(write(rows, "elsewhere/val"), ANY).fingerprint()
    assert one.fingerprint() != Questions(path, ANY, limit=1).fingerprint()
    other = [rows[0], question(1, reward_model={"style": "rule", "ground_truth": "2"})]
    assert one.fingerprint() != Questions(write(other, "other/val"), ANY).fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "row 0: 1 times <image> in the prompt, but 0 pictures"),
        ({"images": [{"bytes": b"no picture", "path": None}]}, "row 0: a picture can't be read"),
        ({"images": [{"bytes": None, "path": "gone.png"}]}, "row 0: a picture can't be read"),
        ({"images": [{"bytes": None, "path": None}]}, "row 0: a picture has neither bytes nor"),
    ],
)
def test_a_bad_picture_is_named_by_file_and_row(write, changes, message):
    good = question(1, images=[{"bytes": picture(), "path": "x"}])
    path = write([question(0, **changes), good])
    with pytest.raises(EvaluationError, match=f"val.parquet, {message}"):
        conversations(Questions(path, ANY))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": "What?"}, "row 0: prompt must be a list of messages"),
        ({"prompt": []}, "row 0: prompt must be a list of messages"),
        ({"reward_model": {"style": "rule"}}, "row 0: reward_model has no ground_truth"),
        ({"reward_model": {"ground_truth": float("nan")}}, "row 0: The ground truth nan is empty"),
        ({"reward_model": {"ground_truth": [["7"]]}}, "row 0: The ground truth .* holds list"),
    ],
)
def test_a_bad_row_is_named_by_file_and_number(write, changes, message):
    with pytest.raises(EvaluationError, match=f"val.parquet, {message}"):
        Questions(write([question(0, **changes)]), ANY)


def test_a_missing_column_is_named_with_its_neighbour(write):
    row = question(0)
    row["reward_modle"] = row.pop("reward_model")
    with pytest.raises(
        EvaluationError, match="no column reward_model. Did you mean reward_modle.*Its columns: "
    ):
        Questions(write([row]), ANY)
    without = question(0)
    del without["images"]
    with pytest.raises(EvaluationError, match="no column images"):
        Questions(write([without]), ANY)


def test_what_is_no_parquet_file_or_empty_is_refused(tmp_path, write):
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(EvaluationError, match="isn't a Parquet file"):
        Questions(tmp_path / "x.parquet", ANY)
    with pytest.raises(EvaluationError, match="has no rows"):
        Questions(write([question(0)]), ANY, limit=0)

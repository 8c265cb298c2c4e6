"""The quickstart's Parquet files: repeatable, disjoint, and readable by verl."""

from pathlib import Path
from random import Random

import pyarrow.parquet as pq
import pytest

from examples.quickstart import data
from examples.quickstart.tasks import MAX_STEPS, REWARDS, TASKS, make_example
from lipo_verl.cpu import torch_extensions

BASE_MODEL = Path(data.__file__).with_name("base_model")


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return data.write_splits(tmp_path_factory.mktemp("data"), train=30, val=10, seed=1)


def pictures(path):
    return [row["images"][0]["bytes"] for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("task", TASKS)
def test_no_picture_occurs_twice(splits, task):
    train, val = pictures(splits[task]["train"]), pictures(splits[task]["val"])
    assert (len(train), len(val)) == (30, 10)
    assert len({*train, *val}) == 40


def test_repeated_pictures_are_drawn_again(tmp_path, monkeypatch):
    draws = iter(seed // 3 for seed in range(10_000))
    monkeypatch.setattr(
        data, "make_example", lambda task, rng: make_example(task, Random(next(draws)))
    )
    files = data.write_splits(tmp_path, train=8, val=4)
    assert len({*pictures(files["ocr"]["train"]), *pictures(files["ocr"]["val"])}) == 12


def test_same_seed_same_rows(splits, tmp_path):
    again = data.write_splits(tmp_path / "again", train=30, val=10, seed=1)
    other = data.write_splits(tmp_path / "other", train=30, val=10, seed=2)
    for task in TASKS:
        rows = pq.read_table(splits[task]["train"])
        assert rows.equals(pq.read_table(again[task]["train"]))
        assert not rows.equals(pq.read_table(other[task]["train"]))


def test_nothing_unfinished_is_left(splits):
    folder = splits["math"]["train"].parent
    assert sorted(path.name for path in folder.iterdir()) == ["train.parquet", "val.parquet"]


@pytest.mark.parametrize("task", TASKS)
def test_rows_carry_what_the_reward_manager_asks_for(splits, task):
    for index, row in enumerate(pq.read_table(splits[task]["val"]).to_pylist()):
        assert row["data_source"] == f"quickstart/{task}"
        assert row["reward_model"] == {
            "style": "rule",
            "ground_truth": row["extra_info"]["answer"],
        }
        assert row["extra_info"]["index"] == index
        assert row["extra_info"]["task"] == task
        assert row["extra_info"]["reward_task"] == REWARDS[task]
        assert row["extra_info"]["steps"] in range(1, MAX_STEPS + 1)


def test_empty_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="val is 0"):
        data.write_splits(tmp_path, train=1, val=0)


@pytest.mark.parametrize("task", TASKS)
def test_verl_reads_the_rows_with_the_shipped_processor(splits, task):
    torch_extensions.install()  # before verl or transformers imports torchvision
    rl_dataset = pytest.importorskip("verl.utils.dataset.rl_dataset")
    pytest.importorskip("qwen_vl_utils")
    from omegaconf import OmegaConf
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(BASE_MODEL)
    settings = {"max_prompt_length": 48, "filter_overlong_prompts_workers": 1}
    dataset = rl_dataset.RLHFDataset(
        str(splits[task]["val"]), processor.tokenizer, OmegaConf.create(settings), processor
    )
    assert len(dataset) == 10  # one that could not be read would have been left out

    row = dataset[0]
    (message,) = row["raw_prompt"]
    picture, question = message["content"]
    assert (picture["type"], question["type"]) == ("image", "text")
    assert question["text"] == row["extra_info"]["question"]
    images, _, _ = dataset._process_multi_modal_info(row["raw_prompt"], 14, dataset.config)
    assert images[0].tobytes() == picture["image"].convert("RGB").tobytes()

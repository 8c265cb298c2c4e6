"""The order of rows: seeded, complete, the same however they come."""

import pyarrow.parquet as pq
import pytest

from examples.tiny_r1v.data import shuffle
from examples.tiny_r1v.data.schema import make_row


def rows(count=250):
    return [make_row("math", "s", f"s/{i}", f"{i}?", "1", "math", bytes(9)) for i in range(count)]


def order(path):
    return [row["extra_info"]["id"] for row in shuffle.read_rows([path])]


def test_the_order_is_the_same_for_rows_that_come_in_another(tmp_path):
    shuffle.write_shuffled(tmp_path / "a", rows(), "train", seed=0)
    shuffle.write_shuffled(tmp_path / "b", rows()[::-1], "train", seed=0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_row_is_there_once_and_numbered(tmp_path):
    described = shuffle.write_shuffled(tmp_path / "a", rows(), "train", seed=0)
    assert described["rows"] == 250
    assert sorted(order(tmp_path / "a")) == sorted(f"s/{i}" for i in range(250))
    written = list(shuffle.read_rows([tmp_path / "a"]))
    assert [row["extra_info"]["index"] for row in written] == list(range(250))


def test_the_seed_decides_and_the_order_is_not_the_given_one(tmp_path):
    for seed in (0, 1):
        shuffle.write_shuffled(tmp_path / str(seed), rows(), "train", seed=seed)
    orders = [order(tmp_path / "0"), order(tmp_path / "1"), [f"s/{i}" for i in range(250)]]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_row_groups_stay_small_for_pictures(tmp_path):
    shuffle.write_shuffled(tmp_path / "a", rows(), "train", seed=0)
    groups = pq.ParquetFile(tmp_path / "a").metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes == [100, 100, 50]


def test_nothing_is_left_of_a_file_that_could_not_be_finished(tmp_path):
    def broken():
        yield from rows(120)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        shuffle.write_shuffled(tmp_path / "a.parquet", broken(), "train", seed=0)
    assert not (tmp_path / "a.parquet").exists()
    assert not list(tmp_path.glob("unfinished-*"))

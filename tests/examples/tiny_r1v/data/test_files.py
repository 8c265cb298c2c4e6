"""Reading files that are not what they should be, and cells out of large ones."""

import pyarrow as pa
import pytest

from examples.tiny_r1v.data import files
from examples.tiny_r1v.data.errors import DataError


@pytest.fixture
def numbers(make, tmp_path):
    path = tmp_path / "numbers.parquet"
    make.parquet(path, [{"n": n, "m": -n} for n in range(10)], n=pa.int64(), m=pa.int64())
    return path


def test_cells_come_from_all_row_groups_and_only_those_asked_for(numbers):
    assert dict(files.cells(numbers, "m", [9, 0, 4, 5, 4])) == {0: 0, 4: -4, 5: -5, 9: -9}


def test_rows_have_the_columns_asked_for(numbers):
    assert list(files.rows(numbers, ["n"])) == [{"n": n} for n in range(10)]


def test_a_missing_column_is_an_error_with_the_nearest_name(make, tmp_path):
    make.parquet(tmp_path / "a.parquet", [{"answers": "1"}], answers=pa.string())
    with pytest.raises(DataError, match=r"a.parquet has no column answer\. Did you mean answers\?"):
        list(files.rows(tmp_path / "a.parquet", ["answer"]))


def test_a_file_cut_off_is_an_error_that_says_to_delete_it(numbers):
    numbers.write_bytes(numbers.read_bytes()[:-20])
    with pytest.raises(DataError, match="no whole Parquet file .* delete it"):
        files.open_parquet(numbers, [])
    (numbers.parent / "a.json").write_text('{"a": [1, ')
    with pytest.raises(DataError, match="a.json is no JSON"):
        files.read_json(numbers.parent / "a.json")


def test_pictures_are_found_by_type(make):
    schema = pa.schema(
        [
            ("image", make.IMAGE),
            ("images", pa.list_(make.IMAGE)),
            ("raw", pa.binary()),
            ("path", pa.string()),
            ("options", make.STRINGS),
            ("meta", pa.struct([("path", pa.string())])),
        ]
    )
    assert files.picture_columns(schema) == ["image", "images", "raw"]


@pytest.mark.parametrize(
    "cell, found",
    [
        (None, []),
        (b"a", [b"a"]),
        ({"bytes": b"a", "path": None}, [b"a"]),
        ({"bytes": None, "path": "a.png"}, []),
        ([{"bytes": b"a"}, {"bytes": b"b"}], [b"a", b"b"]),
    ],
)
def test_the_bytes_of_every_form_of_cell_are_found(cell, found):
    assert files.picture_bytes(cell) == found

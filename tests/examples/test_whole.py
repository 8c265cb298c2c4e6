"""What is written appears whole or not at all."""

import json

import pytest

from examples.whole import whole, write_json


def file(path):
    path.write_text("new")


def folder(path):
    path.mkdir()
    (path / "weights").touch()


def link(path):
    path.symlink_to(path.parent)


@pytest.mark.parametrize("write", [file, folder, link])
def test_it_is_there_in_the_end_and_not_before(tmp_path, write):
    target = tmp_path / "a" / "b.c"
    with whole(target) as unfinished:
        write(unfinished)
        assert not target.exists()
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("write", [file, folder, link])
def test_after_an_error_the_old_one_is_there_and_nothing_of_the_new(tmp_path, write):
    target = tmp_path / "b.c"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), whole(target) as unfinished:
        write(unfinished)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_text() == "old"


@pytest.mark.parametrize("write", [file, folder, link])
def test_what_a_killed_process_left_is_not_in_the_way(tmp_path, write):
    with pytest.raises(FileNotFoundError), whole(tmp_path / "b.c") as unfinished:
        write(unfinished)
        left = unfinished.rename(tmp_path / "left")
    left.rename(unfinished)
    with whole(tmp_path / "b.c") as unfinished:
        write(unfinished)
    assert list(tmp_path.iterdir()) == [tmp_path / "b.c"]


def test_json_is_read_back(tmp_path):
    write_json(tmp_path / "a.json", {"κ": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"κ": [1, None]}

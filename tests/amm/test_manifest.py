"""The record of a merge in progress: what survives, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amm.engines.manifest import Manifest
from amm.errors import InputError

IDENTITY = {"method": "mean", "inputs": {"base": "1"}, "parameters": {"steps": 3}}


def filled(path):
    manifest = Manifest(path, IDENTITY, 2)
    for i in range(3):
        manifest.add_tensor(f"w{i}", {"checksum": i})
    manifest.add_hash("file", "abc")
    manifest.close()
    return path


def test_everything_is_read_again(tmp_path):
    manifest = Manifest(filled(tmp_path / "m"), IDENTITY, 7)
    assert manifest.tensors == {f"w{i}": {"checksum": i} for i in range(3)}
    assert manifest.hashes == {"file": "abc"}
    assert manifest.threads == 2, "of the run that began"
    manifest.close()


@given(cut=st.integers(0, 10**6), garbage=st.binary(max_size=20))
def test_a_cut_or_damaged_end_is_left_out_and_written_over(tmp_path_factory, cut, garbage):
    path = filled(tmp_path_factory.mktemp("m") / "m")
    whole = path.read_bytes()
    cut %= len(whole) + 1
    path.write_bytes(whole[:cut] + garbage)
    manifest = Manifest(path, IDENTITY, 2)
    complete = whole[:cut].count(b"\n")
    assert manifest.tensors == {f"w{i}": {"checksum": i} for i in range(min(complete - 1, 3))}
    manifest.add_tensor("new", {"checksum": 9})
    manifest.close()
    again = Manifest(path, IDENTITY, 2)
    assert again.tensors == manifest.tensors
    again.close()


def test_another_merge_is_refused_with_what_differs(tmp_path):
    path = filled(tmp_path / "m")
    other = IDENTITY | {"parameters": {"steps": 4}, "inputs": {"base": "1", "new": "2"}}
    with pytest.raises(InputError) as error:
        Manifest(path, other, 2)
    assert re.search(r"parameters.steps: 3, now 4", str(error.value))
    assert "inputs.new: none, now 2" in str(error.value)
    assert "remove that folder" in str(error.value)
    Manifest(path, IDENTITY, 2).close()


def test_another_merge_that_has_done_nothing_is_replaced(tmp_path):
    Manifest(tmp_path / "m", {"method": "amm"}, 2).close()
    Manifest(tmp_path / "m", IDENTITY, 3).close()
    manifest = Manifest(tmp_path / "m", IDENTITY, 4)
    assert manifest.threads == 3 and manifest.tensors == {}
    manifest.close()

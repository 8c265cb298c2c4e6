"""Writer: files that safetensors reads, files copied byte for byte, whole or not at all."""

import errno
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import torch
from pico_models import OTHER_FILES, load_folder
from safetensors import safe_open

from amm.checkpoints.donor import other_files
from amm.checkpoints.writer import Entry, OutputFolder, SafetensorsWriter
from amm.errors import InputError

WEIGHTS = {
    "odd": torch.ones(3).bfloat16(),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "single": torch.randn(7, 5),
    "wide": torch.randn(3).double(),
    "half": torch.randn(11).half(),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 4),
}


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def planned(folder, weights, max_shard_size, **more):
    entries = [Entry(name, tuple(t.shape), t.dtype) for name, t in weights.items()]
    writer = SafetensorsWriter(folder, entries, max_shard_size, **more)
    writer.open()
    return writer


def write(folder, weights, max_shard_size, **more):
    """In an order that isn't that of the files, and in pieces."""
    writer = planned(folder, weights, max_shard_size, **more)
    for name, tensor in reversed(weights.items()):
        pieces = tensor.split(2) if tensor.dim() else [tensor]
        assert [writer.append(name, raw(piece)) for piece in pieces][-1]
    writer.finish()
    writer.close()


@pytest.mark.parametrize("max_shard_size", [1, 60, 10**9])
def test_safetensors_reads_what_was_written(tmp_path, max_shard_size):
    write(tmp_path, WEIGHTS, max_shard_size)
    loaded = load_folder(tmp_path)
    assert set(loaded) == set(WEIGHTS)
    for name, tensor in WEIGHTS.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name


def test_one_file_has_the_plain_name_and_no_index(tmp_path):
    write(tmp_path, WEIGHTS, 10**9)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_several_files_are_bounded_and_indexed(tmp_path):
    weights = {f"w{i}": torch.full((10,), float(i)) for i in range(5)}
    write(tmp_path, weights, 80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 200
    assert index["weight_map"] == {
        f"w{i}": f"model-{i // 2 + 1:05d}-of-00003.safetensors" for i in range(5)
    }
    for file in set(index["weight_map"].values()):
        assert (tmp_path / file).is_file()


def test_more_files_than_may_be_open_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("amm.checkpoints.writer._OPEN_FILES", 2)
    write(tmp_path, WEIGHTS, 1)
    assert all(torch.equal(load_folder(tmp_path)[name], WEIGHTS[name]) for name in WEIGHTS)


def test_one_file_of_another_name_holds_all(tmp_path):
    write(tmp_path, WEIGHTS, 1, single_file="side.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["side.safetensors"]
    assert set(load_folder(tmp_path)) == set(WEIGHTS)


def test_departing_from_the_plan_is_an_error(tmp_path):
    writer = planned(tmp_path, {"w": torch.ones(2)}, 100)
    with pytest.raises(ValueError, match="v isn't planned"):
        writer.append("v", raw(torch.ones(2)))
    with pytest.raises(ValueError, match="planned with 8 bytes, not 12"):
        writer.append("w", raw(torch.ones(3)))
    assert not writer.append("w", raw(torch.ones(1)))
    with pytest.raises(ValueError, match="w was planned, and never written"):
        writer.finish()
    writer.close()


def test_what_an_earlier_writer_wrote_is_taken_over_if_its_bytes_are_there(tmp_path):
    weights = {f"w{i}": torch.randn(10) for i in range(4)}
    first = planned(tmp_path, weights, 80)
    for name in ("w0", "w3"):
        first.append(name, raw(weights[name]))
    checksums = {name: first.checksum(name) for name in weights}
    first.close()
    second = planned(tmp_path, weights, 80)
    assert second.take_over("w3", checksums["w3"])
    assert not second.take_over("w0", checksums["w0"] ^ 1)
    assert not second.take_over("w1", checksums["w0"])
    for name in ("w0", "w1", "w2"):
        second.append(name, raw(weights[name]))
    second.finish()
    second.close()
    assert all(torch.equal(load_folder(tmp_path)[name], weights[name]) for name in weights)


def test_other_files_are_copied_byte_for_byte(pico, tmp_path):
    base, _ = pico
    (base / ".cache").mkdir()
    (base / ".cache" / "x").touch()
    (base / "provenance.json").write_text("older")
    names = {name: name for name in OTHER_FILES} | {"provenance.json": "provenance.base.json"}
    with OutputFolder(tmp_path / "out") as folder:
        assert folder.copy_files(base, other_files(base).copied, own=["provenance.json"]) == names
    copied = {
        str(file.relative_to(tmp_path / "out")): file.read_bytes()
        for file in (tmp_path / "out").rglob("*")
        if file.is_file()
    }
    assert copied == OTHER_FILES | {"provenance.base.json": b"older"}


def test_output_appears_at_the_end_only(tmp_path):
    with OutputFolder(tmp_path / "deep" / "out") as folder:
        folder.write_json("a.json", {"a": "é"})
        assert not (tmp_path / "deep" / "out").exists()
    assert json.loads((tmp_path / "deep" / "out" / "a.json").read_text()) == {"a": "é"}
    assert os.listdir(tmp_path / "deep") == ["out"]


def test_nothing_is_left_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with OutputFolder(tmp_path / "out") as folder:
            folder.write_json("a.json", {})
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_empty_output_folder_is_filled_and_a_full_one_refused(tmp_path):
    (tmp_path / "out").mkdir()
    with OutputFolder(tmp_path / "out") as folder:
        folder.write_json("a.json", {})
    assert os.listdir(tmp_path / "out") == ["a.json"]
    with pytest.raises(InputError, match="isn't an empty folder"):
        OutputFolder(tmp_path / "out").__enter__()


def test_what_a_killed_run_left_is_there_for_the_next_one(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with OutputFolder(tmp_path / "out") as folder:
            folder.write_bytes("model.safetensors", b"half")
            folder.write_bytes("a.json", b"{}")
            folder.keep = True
            raise KeyboardInterrupt
    assert not (tmp_path / "out").exists()
    with OutputFolder(tmp_path / "out") as folder:
        folder.clear(keep=["model.safetensors"])
    assert os.listdir(tmp_path / "out") == ["model.safetensors"]


def test_two_merges_into_one_output_are_refused(tmp_path):
    with OutputFolder(tmp_path / "out"):
        with pytest.raises(InputError, match="another merge is writing"):
            OutputFolder(tmp_path / "out").__enter__()


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without locks, as some of Lustre, NFS and FUSE are."""

    def flock(*arguments):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("amm.checkpoints.writer.fcntl.flock", flock)
    monkeypatch.setattr("amm.checkpoints.writer.SETTLE_SECONDS", 0)


def test_without_locks_a_file_stands_in_for_one_and_says_so(tmp_path, no_flock, caplog):
    with OutputFolder(tmp_path / "out"):
        assert (tmp_path / ".out.lock").is_file()
        with pytest.raises(
            InputError, match=rf"writing .*out, says .*\.out\.lock .* {os.getpid()} "
        ):
            OutputFolder(tmp_path / "out").__enter__()
    assert os.listdir(tmp_path) == ["out"]
    assert "has no locks" in caplog.text and ".out.lock stands in" in caplog.text


@pytest.mark.parametrize(
    ("owner", "taken_over"),
    [("{dead} {here}", True), ("{dead} elsewhere", False), ("1 {here}", False), ("", False)],
)
def test_a_lock_file_is_taken_over_from_a_dead_process_of_this_machine(
    tmp_path, no_flock, owner, taken_over
):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / ".out.lock").write_text(owner.format(dead=ended.pid, here=socket.gethostname()))
    folder = OutputFolder(tmp_path / "out")
    if taken_over:
        with folder:
            assert (tmp_path / ".out.lock").read_text().startswith(f"{os.getpid()} ")
        assert os.listdir(tmp_path) == ["out"]
    else:
        with pytest.raises(InputError, match="if that one isn't running any more, delete that"):
            folder.__enter__()
        assert (tmp_path / ".out.lock").exists()


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "README.md"])
def test_a_link_out_of_the_donor_is_not_copied_into_the_model(tmp_path, name):
    (tmp_path / "secret").write_text("private")
    donor = tmp_path / "donor"
    donor.mkdir()
    (donor / name).symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=f"{name} leads to .*secret"):
        with OutputFolder(tmp_path / "out") as folder:
            folder.copy_files(donor, [name], own=["provenance.json", "README.md"])
    assert not (tmp_path / "out").exists()


def test_a_donors_folder_in_the_place_of_a_file_of_the_merge_is_refused(tmp_path):
    (tmp_path / "donor" / "README.md").mkdir(parents=True)
    with pytest.raises(InputError, match="README.md is a folder"):
        with OutputFolder(tmp_path / "out") as folder:
            folder.copy_files(tmp_path / "donor", ["README.md"], own=["README.md"])


def test_a_card_of_many_bytes_is_refused_before_it_is_copied(tmp_path):
    (tmp_path / "donor").mkdir()
    with (tmp_path / "donor" / "README.md").open("wb") as card:
        card.truncate(2 * 10**10)
    with pytest.raises(InputError, match="has 20,000,000,000 bytes, too many"):
        with OutputFolder(tmp_path / "out") as folder:
            folder.copy_files(tmp_path / "donor", ["README.md"], own=["README.md"])


@pytest.mark.parametrize("there", [True, False])
def test_a_link_as_the_output_leads_to_the_folder_that_is_written(tmp_path, there):
    if there:
        (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    with OutputFolder(tmp_path / "out") as folder:
        folder.write_json("a.json", {})
    assert (tmp_path / "out").is_symlink() and os.listdir(tmp_path / "disk") == ["a.json"]
    assert sorted(os.listdir(tmp_path)) == ["disk", "out"]


def test_an_output_that_cannot_appear_by_a_rename_is_refused_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "out")
        with pytest.raises(InputError, match="is the current folder"):
            OutputFolder(Path()).__enter__()

    def busy(*_):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", busy)
    with pytest.raises(InputError, match="Device or resource busy.*such as .*out/merged"):
        OutputFolder(tmp_path / "out").__enter__()
    assert os.listdir(tmp_path) == ["out"]


def left_by_a_killed_run(path):
    """The hidden folder of an output, with a file in its model."""
    with pytest.raises(KeyboardInterrupt):
        with OutputFolder(path) as folder:
            folder.write_bytes("model.safetensors", b"half")
            folder.keep = True
            raise KeyboardInterrupt
    return folder.work


@pytest.mark.parametrize("place", ["", "model", "model/model.safetensors", "model/a/b", "manifest"])
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_links_and_pipes_in_the_hidden_folder_are_refused_and_left_alone(tmp_path, place, kind):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis").write_text("years")
    spot = left_by_a_killed_run(tmp_path / "out") / place
    if spot.is_dir():
        shutil.rmtree(spot)
    spot.unlink(missing_ok=True)
    spot.parent.mkdir(parents=True, exist_ok=True)
    if kind == "link":
        spot.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim / "thesis", spot)
    else:
        os.mkfifo(spot)
    with pytest.raises(InputError, match="isn't what an unfinished merge of yours"):
        OutputFolder(tmp_path / "out").__enter__()
    assert [file.read_text() for file in victim.iterdir()] == ["years"]
    assert os.path.lexists(spot)


def test_a_hidden_folder_of_the_users_own_is_left_alone(tmp_path):
    notes = tmp_path / ".out.partial" / "model" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    with pytest.raises(InputError, match="isn't what an unfinished merge of yours"):
        OutputFolder(tmp_path / "out").__enter__()
    assert notes.read_text() == "mine"


def test_a_hidden_folder_that_others_can_write_into_is_refused(tmp_path):
    work = left_by_a_killed_run(tmp_path / "out")
    assert work.stat().st_mode & 0o777 == 0o700
    work.chmod(0o777)
    with pytest.raises(InputError, match="isn't what an unfinished merge of yours"):
        OutputFolder(tmp_path / "out").__enter__()
    work.chmod(0o700)
    with OutputFolder(tmp_path / "out") as folder:
        folder.clear()


def test_links_into_the_blobs_of_the_hubs_cache_are_copied(tmp_path):
    blobs, donor = tmp_path / "models--o--n/blobs", tmp_path / "models--o--n/snapshots/abc"
    blobs.mkdir(parents=True)
    donor.mkdir(parents=True)
    (blobs / "123").write_bytes(b"{}")
    (donor / "config.json").symlink_to("../../blobs/123")
    with OutputFolder(tmp_path / "out") as folder:
        assert folder.copy_files(donor, ["config.json"]) == {"config.json": "config.json"}
    assert (tmp_path / "out/config.json").read_bytes() == b"{}"
    assert not (tmp_path / "out/config.json").is_symlink()

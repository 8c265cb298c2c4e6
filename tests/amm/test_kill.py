"""Merges that are stopped, at any moment and by anything, and gone on with."""

import errno
import filecmp
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from pico_models import SHAPES, load_folder, save_folder

import amm
from amm.checkpoints import writer
from amm.errors import MergeInterrupted, UnfinishedError

pytestmark = pytest.mark.slow

KILLS = 10

START = """
import sys, amm.run
from amm.errors import MergeInterrupted
print("ready", flush=True)
try:
    base, *experts, out, method, more = sys.argv[1:]
    amm.merge(base, experts, output=out, method=method, **eval(more))
except MergeInterrupted as stopped:
    sys.exit(str(stopped))
"""


KILL = """
import os, random, signal, sys, time, amm.run
kills, base, *experts, out, manifest, settings = sys.argv[1:]
seed, killed = random.Random(0), 0

def lines():
    return open(manifest, "rb").read().count(b"\\n") if os.path.exists(manifest) else 0

while killed < int(kills) and not os.path.exists(out):
    child = os.fork()
    if child == 0:
        amm.merge(base, experts, output=out, method="amm", **eval(settings))
        os._exit(0)
    enough, ended = lines() + seed.randrange(4), False
    while lines() < enough and not ended:
        time.sleep(0.001)
        ended = os.waitpid(child, os.WNOHANG) != (0, 0)
    if not ended:
        time.sleep(seed.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        killed += os.waitpid(child, 0)[1] != 0
print(killed, lines())
"""
"""Kills a merge again and again, in forks of one interpreter, which has imported everything."""


def start(base, experts, out, method="mean", **more):
    """A merge in a process of its own, which is about to begin."""
    arguments = [*map(str, (base, *experts, out)), method, repr(more)]
    process = subprocess.Popen(
        [sys.executable, "-c", START, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def same_folders(one, two):
    names = sorted(file.relative_to(one) for file in one.rglob("*") if file.is_file())
    assert names == sorted(file.relative_to(two) for file in two.rglob("*") if file.is_file())
    return filecmp.cmpfiles(one, two, names, shallow=False)[1:] == ([], [])


@pytest.fixture
def wide(pico, tmp_path):
    """A base and two experts of 300 layers, which take a while."""
    layers = {f"model.layers.{i}.mlp.up_proj.weight": torch.randn(64, 48) for i in range(300)}
    base = save_folder(tmp_path / "wide", layers)
    experts = [
        save_folder(
            tmp_path / f"wide{i}",
            {key: weight + 0.01 * torch.randn_like(weight) for key, weight in layers.items()},
        )
        for i in range(2)
    ]
    return base, experts


def test_killed_at_random_moments_it_ends_with_the_same_bytes(wide, tmp_path):
    base, experts = wide
    out, settings = tmp_path / "out", {"parameters": {"steps": 10}}
    amm.merge(base, experts, output=tmp_path / "whole", **settings)
    arguments = [KILLS, base, *experts, out, tmp_path / ".out.partial" / "manifest", settings]
    done = subprocess.run(
        [sys.executable, "-c", KILL, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    killed, lines = map(int, done.stdout.split())
    assert killed == KILLS and lines > 1
    amm.merge(base, experts, output=out, **settings)
    assert same_folders(tmp_path / "whole", out)
    assert not (tmp_path / ".out.partial").exists()


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it_and_the_message_says_how_to_go_on(wide, tmp_path, name):
    base, experts = wide
    process = start(base, experts, tmp_path / "out", "amm", parameters={"steps": 500})
    manifest = tmp_path / ".out.partial" / "manifest"
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < 5:
        time.sleep(0.01)
    process.send_signal(name)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "of 300 tensors are done; run the same merge again to resume." in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists() and manifest.exists()


def stopped(base, experts, out, after, **more):
    """Stop a merge after so many tensors."""
    seen = []

    def progress(name, done):
        seen.append(name)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.raises(MergeInterrupted, match=f"{after} of 8 tensors are done"):
        amm.merge(base, experts, output=out, progress=progress, **more)


def test_resuming_says_so_and_does_not_merge_again(pico, tmp_path, caplog):
    base, experts = pico
    stopped(base, experts, tmp_path / "out", 5)
    seen = []
    result = amm.merge(
        base, experts, output=tmp_path / "out", progress=lambda *update: seen.append(update)
    )
    assert "resuming: 5 of 8 tensors are done" in caplog.messages
    assert result.resumed == 5
    assert seen[0][0] == "resuming" and 0 < seen[0][1] < 1
    assert [name for name, _ in seen[1:]] == sorted(SHAPES)[5:]
    assert seen[-1][1] == pytest.approx(1)
    whole = amm.merge(base, experts, output=tmp_path / "whole")
    assert whole.tensors == result.tensors
    assert same_folders(tmp_path / "whole", tmp_path / "out")


def test_bytes_that_did_not_reach_the_disk_are_merged_again(pico, tmp_path):
    base, experts = pico
    stopped(base, experts, tmp_path / "out", 5)
    weights = tmp_path / ".out.partial" / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    content[header : header + 16] = bytes(16)  # the first tensor's
    weights.write_bytes(content)
    assert amm.merge(base, experts, output=tmp_path / "out").resumed == 4
    amm.merge(base, experts, output=tmp_path / "whole")
    assert same_folders(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parameters": {"steps": 4}}, "parameters.steps: 300, now 4"),
        ({"method": "mean"}, "method: amm, now mean"),
        ({"save_dtype": "float32"}, "save_dtype: None, now float32"),
    ],
)
def test_another_merge_into_the_same_output_is_refused(pico, tmp_path, change, message):
    base, experts = pico
    stopped(base, experts, tmp_path / "out", 3)
    with pytest.raises(amm.InputError, match=message):
        amm.merge(base, experts, output=tmp_path / "out", **change)
    assert amm.merge(base, experts, output=tmp_path / "out").resumed == 3


def test_an_input_that_changed_meanwhile_is_refused(pico, tmp_path):
    base, experts = pico
    stopped(base, experts, tmp_path / "out", 3)
    os.utime(experts[1] / "model.safetensors", ns=(1, 1))
    with pytest.raises(amm.InputError, match="expert2: model.safetensors: .* modified at 1 ns"):
        amm.merge(base, experts, output=tmp_path / "out")


def test_an_input_written_over_with_its_times_kept_is_refused_on_resuming(pico, tmp_path):
    base, experts = pico
    stopped(base, experts, tmp_path / "out", 3)
    write_over(experts[1] / "model.safetensors")
    with pytest.raises(amm.InputError, match="expert2: model.safetensors: .* changed at"):
        amm.merge(base, experts, output=tmp_path / "out")


def write_over(file):
    """Change a byte in place, and leave the size and the times that can be set."""
    status = file.stat()
    with file.open("r+b") as content:
        content.seek(-1, os.SEEK_END)
        content.write(b"\x01")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_an_input_written_over_during_the_merge_is_an_error(pico, tmp_path):
    base, experts = pico
    done = []

    def progress(name, share):
        if not done:
            write_over(experts[0] / "model.safetensors")
        done.append(name)

    with pytest.raises(amm.InputError, match="expert1: model.safetensors was changed during the"):
        amm.merge(base, experts, output=tmp_path / "out", method="mean", progress=progress)
    assert not (tmp_path / "out").exists()


def test_a_mistake_in_between_does_not_lose_what_is_done(pico, tmp_path):
    base, experts = pico
    stopped(base, experts, tmp_path / "out", 3)
    with pytest.raises(amm.InputError, match="nowhere"):
        amm.merge(tmp_path / "nowhere", experts, output=tmp_path / "out")
    assert amm.merge(base, experts, output=tmp_path / "out").resumed == 3


def test_a_full_disk_is_named_and_the_merge_goes_on_later(pico, tmp_path, monkeypatch):
    base, experts = pico
    calls, write_at = [], writer._write_at

    def full(handle, data, offset):
        calls.append(offset)
        if len(calls) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_at(handle, data, offset)

    with monkeypatch.context() as patch, pytest.raises(UnfinishedError) as error:
        patch.setattr(writer, "_write_at", full)
        amm.merge(base, experts, output=tmp_path / "out", method="mean")
    message = str(error.value)
    assert message.startswith(f"the disk is full: {tmp_path} has ")
    assert "4 of 8 tensors are done; run the same merge again" in message
    assert amm.merge(base, experts, output=tmp_path / "out", method="mean").resumed == 4
    assert set(load_folder(tmp_path / "out")) == set(SHAPES)


def test_too_little_room_is_found_before_any_work(pico, tmp_path, monkeypatch):
    base, experts = pico
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(UnfinishedError, match="has 1MB free, and 16.8MB are needed; make room"):
        amm.merge(base, experts, output=tmp_path / "out")
    assert not (tmp_path / ".out.partial").exists()


def test_killed_after_the_output_appeared_nothing_is_left_to_do(pico, tmp_path, monkeypatch):
    base, experts = pico
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
        patch.setattr("shutil.rmtree", lambda path: (_ for _ in ()).throw(OSError("killed")))
        amm.merge(base, experts, output=tmp_path / "out", method="mean")
    assert set(load_folder(tmp_path / "out")) == set(SHAPES)
    with pytest.raises(amm.InputError, match="isn't an empty folder"):
        amm.merge(base, experts, output=tmp_path / "out", method="mean")

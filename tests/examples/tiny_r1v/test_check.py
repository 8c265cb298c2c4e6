"""The machine check: what it finds missing, and what it says to do."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from examples.tiny_r1v.launch import check
from examples.tiny_r1v.launch.check import GB, Gpu, Machine, judge, needs

REPOSITORY = Path(__file__).parents[3]

GOOD = Machine(
    gpus=(Gpu("H100", 81559 * 2**20, "575.10"),) * 8,
    memory=1000 * GB,
    shared_memory=100 * GB,
    disk_free=3000 * GB,
    disk_used=0,
    python="3.11.7",
    interpreter="/venv/bin/python",
    packages={
        "verl": "0.9.1",
        "TransferQueue": "0.1.10",
        "transformers": "5.10.4",
        "torch": "2.11.0+cu130",
        "ray": "2.60.0",
        "lipo-verl": "0.1.dev3",
        "rapidfuzz": "3.14",
        "math-verify": "0.9.0",
        "vllm": "0.24.0",
        "flash-attn": "2.8.3",
    },
    framework="verl",
    cuda="",
    missing_files=(),
)


def missing(machine, profile="3b", framework="verl", gpus=8, runs=1):
    findings = judge(machine, needs(profile, framework, gpus, runs), "pip install it")
    return {finding.what: finding for finding in findings if finding.remedy}


def without(package, **others):
    packages = {k: v for k, v in GOOD.packages.items() if k != package} | others
    return dataclasses.replace(GOOD, packages=packages)


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_a_machine_that_has_everything_passes(gpus):
    assert missing(GOOD, gpus=gpus) == {}


@pytest.mark.parametrize(
    "change, what, remedy",
    [
        ({"gpus": ()}, "GPUs", "GPUs: nvidia-smi finds none"),
        ({"gpus": GOOD.gpus[:6]}, "GPUs", "--gpus 4"),
        ({"gpus": (Gpu("L4", 24 * GB, "1"),) * 8}, "GPU memory", "larger GPUs"),
        ({"memory": 64 * GB}, "memory", "larger machine"),
        ({"shared_memory": 64 * 2**20}, "shared memory", "--shm-size"),
        ({"disk_free": 100 * GB}, "disk", "--output"),
        ({"python": "3.13.1"}, "python", "3.10, 3.11 or 3.12"),
        ({"framework": "easyr1"}, "framework", "pip install it"),
        ({"cuda": "RuntimeError: driver too old"}, "CUDA", "newer driver"),
        ({"missing_files": (Path("/d/math/train.parquet"),)}, "data", "data math --output /d"),
    ],
)
def test_what_is_missing_is_named_with_what_to_do(change, what, remedy):
    found = missing(dataclasses.replace(GOOD, **change))
    assert what in found
    assert remedy in found[what].remedy


@pytest.mark.parametrize(
    "machine",
    [without("flash-attn"), without("", verl="0.8.0"), without("", transformers="5.11.0")],
)
def test_missing_and_wrong_packages_are_found(machine):
    (finding,) = missing(machine).values()
    assert finding.remedy == "pip install it"


def test_everything_missing_is_said_at_once():
    nothing = Machine((), 0, 0, 0, 0, "3.9.1", "python", {}, "", "", (Path("/d/math/val.parquet"),))
    everything = {finding.what for finding in judge(nothing, needs("3b", "verl", 8), "x")}
    assert set(missing(nothing)) == everything


def test_what_a_run_has_saved_already_counts_as_room_for_it():
    half = dataclasses.replace(GOOD, disk_free=150 * GB)
    assert "disk" in missing(half)
    assert "disk" not in missing(dataclasses.replace(half, disk_used=150 * GB))


def test_eighty_gigabyte_cards_are_taken_for_what_they_are():
    cards = {"A100 80GB": 81920, "H100 80GB": 81559, "H100 PCIe": 81079}
    for name, mebibytes in cards.items():
        machine = dataclasses.replace(GOOD, gpus=(Gpu(name, mebibytes * 2**20, "1"),))
        assert missing(machine, gpus=1) == {}, name
    forty = dataclasses.replace(GOOD, gpus=(Gpu("A100 40GB", 40960 * 2**20, "1"),))
    assert "GPU memory" in missing(forty, gpus=1)


def test_easyr1_wants_other_versions():
    packages = GOOD.packages | {"transformers": "4.57.6", "omegaconf": "2.3.0"}
    machine = dataclasses.replace(GOOD, packages=packages, framework="easyr1")
    assert missing(machine, framework="easyr1") == {}
    assert {"framework", "transformers", "omegaconf"} == set(missing(GOOD, framework="easyr1"))


def run(*arguments, path=()):
    env = os.environ | {"PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]])}
    command = [sys.executable, "-m", check.__name__, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, env=env, capture_output=True, text=True)


def test_this_machine_can_run_the_quickstart(tmp_path):
    done = run("--profile", "quickstart", "--gpus", 2, "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nvidia_smi_is_read_and_a_machine_without_enough_fails(tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA L4, 23034 MiB, 550.90'\necho 'GH200, [N/A], 550.90'\n")
    smi.chmod(0o755)
    done = run("--gpus", 4, "--output", tmp_path / "new", path=[tmp_path])
    assert done.returncode == 1
    assert "2 × NVIDIA L4, 4 are asked for" in " ".join(done.stdout.split())
    assert "--gpus 1" in done.stdout
    assert "--no-check" in done.stderr


def test_a_number_of_gpus_without_settings_is_refused():
    assert "there are settings for 1, 4 and 8" in run("--gpus", 3).stderr

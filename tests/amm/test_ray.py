"""Merging on a Ray cluster: the same bytes as here, also when a worker dies."""

import filecmp
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch
from pico_models import load_folder, save_folder
from safetensors.torch import save_file

import amm
from amm.checkpoints.keys import common_name

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.slow

FILES = ["model.safetensors", "provenance.json", "README.md"]


def test_workers_import_nothing_from_the_current_folder(pico, tmp_path):
    base, experts = pico
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    for name in ("pydantic", "numpy", "json"):
        (stranger / f"{name}.py").write_text("raise SystemExit('code of the folder ran')")
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, amm\nbase, *experts, out = sys.argv[1:]\n"
        "amm.merge(base, experts, output=out, method='mean', engine='ray')\n"
    )
    command = [sys.executable, script, base, *experts, tmp_path / "out"]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    subprocess.run(list(map(str, command)), cwd=stranger, env=environment, check=True)
    assert set(load_folder(tmp_path / "out")) == set(load_folder(base))


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def kill_one_busy_worker(killed):
    """Wait for a process that runs a task, and kill it."""
    deadline = time.monotonic() + 60
    while not killed and time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            try:
                if "_merge" in process.cmdline()[0]:
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return
            except (IndexError, psutil.Error):
                continue
        time.sleep(0.002)


def test_a_cluster_of_which_a_worker_is_killed_gives_the_local_bytes(pico, tmp_path, cluster):
    base, experts = pico
    settings = {"parameters": {"steps": 2000}, "save_dtype": "float32"}
    killed = []
    killer = threading.Thread(target=kill_one_busy_worker, args=[killed])
    killer.start()
    result = amm.merge(base, experts, output=tmp_path / "ray", engine="ray", **settings)
    killer.join()
    assert killed, "no task was seen"
    assert result.tensors == amm.merge(base, experts, output=tmp_path / "l", **settings).tensors
    assert filecmp.cmpfiles(tmp_path / "ray", tmp_path / "l", FILES, False)[1:] == ([], [])


def test_a_union_has_the_local_bytes(pico, tmp_path, cluster, monkeypatch):
    base, experts = pico
    for number, expert in enumerate(experts):
        weights = {k: v for k, v in load_folder(expert).items() if "visual" not in k}
        weights = {k.replace("model.", "model.language_model.", 1): v for k, v in weights.items()}
        own = {f"model.audio{number}.weight": torch.randn(300, 20)}
        experts[number] = save_folder(tmp_path / f"own{number}", weights | own)
    weights = {key: value for key, value in load_folder(base).items() if "visual" not in key}
    base = save_folder(tmp_path / "bare", weights)
    monkeypatch.chdir(tmp_path)
    settings = {"method": "mean", "parts": "union", "copy_files_from": "own1"}
    result = amm.merge(base, experts, output=tmp_path / "ray", engine="ray", **settings)
    assert result.tensors == amm.merge(base, experts, output=tmp_path / "l", **settings).tensors
    assert filecmp.cmpfiles(tmp_path / "ray", tmp_path / "l", FILES, False)[1:] == ([], [])


def test_bad_input_is_the_same_error_as_here(pico, tmp_path, cluster):
    base, experts = pico
    weights = load_folder(experts[1])
    weights["model.norm.weight"][3] = float("nan")
    experts[1] = save_folder(tmp_path / "nan", weights)
    with pytest.raises(amm.InputError, match="nan: model.norm.weight has entries that aren't"):
        amm.merge(base, experts, output=tmp_path / "out", method="mean", engine="ray")
    assert not (tmp_path / ".out.partial").exists()


def test_large_tensors_are_merged_in_blocks_there_too(tmp_path, cluster):
    weights = {
        "model.embed_tokens.weight": torch.randn(3000, 256),
        "model.norm.weight": torch.ones(8),
    }
    base = save_folder(tmp_path / "base", weights)
    expert = save_folder(tmp_path / "expert", {k: v + 0.1 for k, v in weights.items()})
    for engine in ("ray", "local"):
        amm.merge(base, [expert], output=tmp_path / engine, method="mean", engine=engine)
    assert filecmp.cmpfiles(tmp_path / "ray", tmp_path / "local", FILES, False)[1:] == ([], [])


def test_a_table_is_found_by_a_path_from_the_current_folder(pico, tmp_path, cluster, monkeypatch):
    """Tasks run in a folder of Ray's."""
    base, (short, _) = pico
    monkeypatch.chdir(tmp_path)
    table = {common_name(name): torch.tensor(0.25) for name in load_folder(base)}
    save_file(table, tmp_path / "table.safetensors")
    whole = {"method": "rpam", "parameters": {"coefficients": "table.safetensors"}}
    part = {"method": "mean", "overrides": [{"names": "*q_proj*", **whole}]}
    for name, what in (("whole", whole), ("part", part)):
        for engine in ("local", "ray"):
            amm.merge(base, [short], output=tmp_path / f"{name}-{engine}", engine=engine, **what)
        here, there = (load_folder(tmp_path / f"{name}-{e}") for e in ("local", "ray"))
        assert all(torch.equal(here[key], there[key]) for key in here)

"""The recipe's launcher for real, at quickstart size: two FSDP ranks, two shards, one model.

Root's run is a Slurm job on two nodes, of which one is lost in training; anybody else's has both
ranks on this machine.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import amm
from amm.checkpoints import open_checkpoint
from examples.tiny_r1v.launch.quickstart_data import write
from examples.tiny_r1v.launch.resume import last_step
from examples.tiny_r1v.pick import rows
from tests.examples.tiny_r1v.nodes import lose, possible, processes_of, reconnect, slurm, two_nodes

pytestmark = [pytest.mark.real_stack, pytest.mark.timeout(1800)]

REPOSITORY = Path(__file__).parents[3]
LAUNCH = REPOSITORY / "examples" / "tiny_r1v" / "launch"
BASE = REPOSITORY / "examples" / "quickstart" / "base_model"
ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "VERL_PLATFORM": "cpu"}
STEPS = 2

RUN = ("--profile", "quickstart", "--algorithm", "lipo", "--expert", "mixture")
SETTINGS = (
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=1",
    f"trainer.test_freq={STEPS}",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, small):
    """The folder of a finished mixture run of two steps on two ranks."""
    folder = tmp_path_factory.mktemp("two-ranks")
    write(folder / "data", train=8, val=2)
    arguments = [*RUN, "--data", folder / "data", "--output", folder / "run"]
    settings = ["--", *small, *SETTINGS]
    before = set(psutil.Process().children(recursive=True))
    if possible():
        with two_nodes() as nodes:
            environment = slurm(nodes, folder, REPOSITORY)
            command = [LAUNCH / "slurm.sh", *arguments, *settings]
            _lose_a_node(nodes[1], command, environment, folder / "run")
            reconnect(nodes[1])
            subprocess.run(command, env=environment, check=True)
    else:
        command = [LAUNCH / "train.sh", *arguments, "--gpus", "2", *settings]
        subprocess.run(command, env=ENVIRONMENT, check=True)
    assert set(psutil.Process().children(recursive=True)) <= before
    return folder / "run"


def _lose_a_node(node, command, environment, folder):
    """Starts the job, and loses the node after the first step."""
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 1200
        while not logged(folder, 0):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(1)
        assert {process.name() for process in processes_of(node)} & {"raylet"}
        lose(node)
        assert process.wait(timeout=300) != 0
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert last_step("verl", folder / "checkpoints") == 1


def logged(folder, start):
    """The rows of metrics of the launch that began after step ``start``."""
    return list(rows(folder / f"metrics-from-{start}.jsonl"))


@pytest.fixture(scope="module")
def actor(run):
    return run / "checkpoints" / f"global_step_{STEPS}" / "actor"


@pytest.mark.skipif(not possible(), reason="only root makes network namespaces, by ip and unshare")
def test_a_job_that_lost_a_node_resumes_from_its_checkpoint(run):
    assert [[row["step"] for row in logged(run, start)] for start in (0, 1)] == [[1], [2]]


def test_verl_logs_lipo_and_the_validation_of_all_three_tasks(run):
    steps = {row["step"]: row["data"] for path in run.glob("metrics-*.jsonl") for row in rows(path)}
    assert set(steps) == {1, STEPS}
    for data in steps.values():
        assert data["lipo/groups_of_one"] == 0
        assert data["training/rollout_actor_probs_pearson_corr"] > 0.99
    validated = {key for key in steps[STEPS] if key.startswith("val-core/")}
    for task in ("math", "structure", "ocr"):
        assert any(f"quickstart/{task}/acc" in key for key in validated)


def test_two_ranks_merge_into_the_very_model_that_one_rank_holds(actor, whole_tensors, tmp_path):
    whole = whole_tensors(actor)
    single = tmp_path / "global_step_2" / "actor"
    single.mkdir(parents=True)
    torch.save(whole, single / "model_world_size_1_rank_0.pt")
    (single / "huggingface").symlink_to(actor / "huggingface")
    merged = {}
    for name, folder in (("two", actor), ("one", single)):
        amm.merge(BASE, [folder, BASE], method="task_arithmetic", output=tmp_path / name)
        merged[name] = load_file(tmp_path / name / "model.safetensors")
    assert merged["two"].keys() == merged["one"].keys()
    moved = 0
    for key, tensor in merged["two"].items():
        assert torch.equal(tensor, merged["one"][key])
        moved += not torch.equal(tensor, load_file(BASE / "model.safetensors")[key])
    assert moved > 0.9 * len(merged["two"])


def test_two_ranks_read_by_amm_are_verls_own_export_within_bf16_rounding(actor, tmp_path):
    command = ["verl.model_merger", "merge", "--backend", "fsdp"]
    subprocess.run(
        [
            *(sys.executable, "-m", *command, "--trust-remote-code"),
            *("--local_dir", actor, "--target_dir", tmp_path / "export"),
        ],
        env=ENVIRONMENT,
        check=True,
    )
    export = load_file(tmp_path / "export" / "model.safetensors")
    amm.merge(BASE, [actor], method="mean", output=tmp_path / "ours")
    ours = open_checkpoint(tmp_path / "ours")
    exported = open_checkpoint(tmp_path / "export")
    assert set(ours.keys()) <= set(exported.keys()) | {"lm_head.weight"}
    assert all(tensor.dtype == torch.bfloat16 for tensor in export.values())
    for key in ours.keys():
        rows = slice(0, ours.shape(key)[0])
        fp32, bf16 = ours.read(key, rows).double(), exported.read(key, rows).double()
        # bf16 keeps 8 significant bits: it rounds by up to 2⁻⁸ of what it gives.
        torch.testing.assert_close(fp32, bf16, rtol=1.01 * 2**-8, atol=0)

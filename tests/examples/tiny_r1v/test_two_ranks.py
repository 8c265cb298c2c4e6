"""The recipe's launcher for real, at quickstart size: two FSDP ranks, two shards, one model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import amm
from amm.checkpoints import open_checkpoint
from examples.tiny_r1v.launch.quickstart_data import write

pytestmark = pytest.mark.real_stack

REPOSITORY = Path(__file__).parents[3]
BASE = REPOSITORY / "examples" / "quickstart" / "base_model"
ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "VERL_PLATFORM": "cpu"}

SMALL = (
    "trainer.total_training_steps=2",
    "trainer.save_freq=2",
    "trainer.val_before_train=false",
    "trainer.test_freq=2",
    "data.train_batch_size=4",
    "data.max_response_length=32",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.rollout.n=3",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a mixture run of two steps on two ranks."""
    folder = tmp_path_factory.mktemp("two-ranks")
    write(folder / "data", train=8, val=2)
    before = set(psutil.Process().children(recursive=True))
    subprocess.run(
        [
            *(REPOSITORY / "examples/tiny_r1v/launch/train.sh", "--profile", "quickstart"),
            *("--algorithm", "lipo", "--expert", "mixture", "--gpus", "2"),
            *("--data", folder / "data", "--output", folder / "run", "--", *SMALL),
        ],
        env=ENVIRONMENT,
        check=True,
    )
    assert set(psutil.Process().children(recursive=True)) == before
    return folder / "run"


@pytest.fixture(scope="module")
def actor(run):
    return run / "checkpoints" / "global_step_2" / "actor"


def whole_tensors(actor):
    """The model's fp32 tensors, put together from what each rank saved, by torch alone."""
    ranks = [
        torch.load(actor / f"model_world_size_2_rank_{rank}.pt", weights_only=False)
        for rank in range(2)
    ]
    return {
        name: torch.cat([rank[name].to_local() for rank in ranks]).view(ranks[0][name].shape)
        for name in ranks[0]
    }


def test_verl_logs_lipo_and_the_validation_of_all_three_tasks(run):
    rows = [json.loads(line) for line in (run / "metrics-from-0.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert row["data"]["lipo/groups_of_one"] == 0
        assert row["data"]["training/rollout_actor_probs_pearson_corr"] > 0.99
    validated = {key for key in rows[-1]["data"] if key.startswith("val-core/")}
    for task in ("math", "structure", "ocr"):
        assert any(f"quickstart/{task}/acc" in key for key in validated)


def test_two_ranks_merge_into_the_very_model_that_one_rank_holds(actor, tmp_path):
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

"""The real stack, small: verl, Ray, FSDP2 and vLLM train on images, and AMM merges the shards."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

import amm
from examples.quickstart.data import write_splits
from examples.quickstart.run import BASE
from examples.quickstart.tasks import TASKS
from examples.quickstart.train import LIPO, Run, TrainingFailed, curve, train
from examples.tiny_r1v.launch.resume import last_step

pytestmark = pytest.mark.real_stack

SMALL = (
    "data.train_batch_size=4",
    "actor_rollout_ref.rollout.n=3",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "data.max_response_length=32",
    "actor_rollout_ref.actor.use_kl_loss=True",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_splits(folder, train=16, val=2, seed=3)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a LIPO run of two steps on the OCR task, on a machine without a compiler."""
    folder = tmp_path_factory.mktemp("train") / "lipo-ocr"
    before = set(psutil.Process().children(recursive=True))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CXX", "no-compiler")
        environment.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder.parent / "compiled"))
        run = Run("lipo-ocr", "ocr", steps=2, settings=(*LIPO, *SMALL))
        train(run, base=BASE, data=data, folder=folder)
    assert set(psutil.Process().children(recursive=True)) <= before
    return folder


def test_two_steps_of_verl_save_fsdp_shards(trained: Path) -> None:
    actor = trained / "checkpoints" / "global_step_2" / "actor"
    assert (actor / "model_world_size_1_rank_0.pt").stat().st_size > 1_000_000
    assert (actor / "fsdp_config.json").exists()


def test_the_trainer_process_says_that_lipo_is_live_and_with_which_settings(trained: Path) -> None:
    (line,) = [
        line for line in (trained / "verl.log").read_text().splitlines() if "LIPO is live" in line
    ]
    assert "TaskRunnerV1" in line
    assert "length_threshold=32" in line


def test_verls_logger_carries_the_metrics_of_lipo(trained: Path) -> None:
    rows = curve(trained)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert 0 < row["lipo/optimum_length"] <= 2 * 32
        assert 0 < row["lipo/weight"] <= 1
        assert row["lipo/groups_of_one"] == 0
        assert row["response_length/mean"] > 0
    assert list((trained / "tensorboard").glob("events.*"))


def test_a_reference_model_gives_the_kl_of_the_loss(trained: Path) -> None:
    first, second = (row["actor/kl_loss"] for row in curve(trained))
    assert abs(first) < 1e-6 < second


def test_the_trainer_finds_the_rollouts_probabilities_again(trained: Path) -> None:
    for row in curve(trained):
        assert row["training/rollout_probs_diff_max"] < 1e-3


def test_a_finished_run_is_not_trained_again(trained: Path, data: Path) -> None:
    run = Run("lipo-ocr", "ocr", steps=2, settings=(*LIPO, "no.such.key=1"))
    assert train(run, base=BASE, data=data, folder=trained).name == "global_step_2"


def test_shards_of_the_trainer_merge_into_a_model_that_transformers_loads(
    trained: Path, tmp_path: Path
) -> None:
    from lipo_verl.cpu import torch_extensions

    torch_extensions.install()
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    expert = trained / "checkpoints" / "global_step_2"
    amm.merge(BASE, [expert], method="mean", output=tmp_path / "expert")
    amm.merge(BASE, [expert, BASE], method="amm", output=tmp_path / "merged")
    models = {
        name: Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        for name, folder in {
            "base": BASE,
            "expert": tmp_path / "expert",
            "merged": tmp_path / "merged",
        }.items()
    }
    weights = {name: dict(model.named_parameters()) for name, model in models.items()}
    assert weights["base"].keys() == weights["merged"].keys()
    moved = [
        key
        for key in weights["base"]
        if not torch.equal(weights["base"][key], weights["expert"][key])
    ]
    assert len(moved) > 0.9 * len(weights["base"]), "training moved hardly any tensor"
    AutoProcessor.from_pretrained(tmp_path / "merged")
    assert (tmp_path / "merged" / "chat_template.jinja").read_bytes() == (
        BASE / "chat_template.jinja"
    ).read_bytes()


def test_vllm_loads_and_evaluates_a_merged_model(trained: Path, data: Path, tmp_path: Path) -> None:
    expert = trained / "checkpoints" / "global_step_2"
    amm.merge(BASE, [expert], method="wudi", output=tmp_path / "merged")
    output = tmp_path / "evaluation"
    files = [f"{task}={data / task / 'val.parquet'}" for task in TASKS]
    command = [sys.executable, "-m", "lipo_verl.evaluate", str(tmp_path / "merged"), str(BASE)]
    command += ["--data", *files, "--output", str(output), "--baseline", "base_model"]
    command += ["--max-tokens", "64", "--vllm", "max_model_len=128"]
    sampled = [*command, "--temperature", "1"]
    first = subprocess.run(sampled, check=True, capture_output=True, text=True).stdout
    for task in TASKS:
        figures = json.loads((output / "merged" / f"{task}.json").read_text())
        assert figures["questions"] == 2
        assert 0 < figures["mean_tokens"] <= 64
        samples = (output / "merged" / f"{task}.jsonl").read_text().splitlines()
        assert "Answer:" in json.loads(samples[0])["response"]
        assert f"merged against base_model on {task}" in first
    assert "WARNING" not in first
    # Whatever else is answered with it, and in whichever process, a row is answered the same way.
    before = (output / "merged" / "ocr.jsonl").read_text()
    (output / "merged" / "ocr.json").unlink()
    again = subprocess.run(sampled, check=True, capture_output=True, text=True).stdout
    assert [line.split()[:2] for line in again.splitlines()[:1]] == [["merged", "ocr"]]
    assert (output / "merged" / "ocr.jsonl").read_text() == before


def test_a_misspelt_setting_stops_the_run_before_ray_starts(data: Path, tmp_path: Path) -> None:
    run = Run("lipo-ocr", "ocr", steps=2, settings=(*LIPO, "+algorithm.lipo.reward_treshold=0.2"))
    with pytest.raises(TrainingFailed, match="Did you mean algorithm.lipo.reward_threshold"):
        train(run, base=BASE, data=data, folder=tmp_path / "typo")
    assert "Started a local Ray instance" not in (tmp_path / "typo" / "verl.log").read_text()


def test_a_cut_metrics_line_and_a_half_written_tracker_are_not_taken_for_whole(
    tmp_path: Path,
) -> None:
    whole = json.dumps({"step": 1, "data": {"x": 1.0}})
    (tmp_path / "metrics-from-0.jsonl").write_text(whole + '\n{"step": 2, "da')
    assert curve(tmp_path) == [{"step": 1, "x": 1.0}]
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("")
    assert last_step("verl", tmp_path) == 0

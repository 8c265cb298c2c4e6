"""A LoRA expert for real, at quickstart size: verl trains an adapter, amm merges what it saved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import amm
from examples.tiny_r1v.launch.quickstart_data import write
from lipo_verl.cpu import torch_extensions

pytestmark = pytest.mark.real_stack

REPOSITORY = Path(__file__).parents[3]
BASE = REPOSITORY / "examples" / "quickstart" / "base_model"

SETTINGS = (
    "+tiny_r1v/adapter=lora",
    "actor_rollout_ref.actor.optim.lr=0.005",
    "trainer.total_training_steps=2",
    "trainer.save_freq=1",
    "trainer.test_freq=-1",
)


@pytest.fixture(scope="module")
def actors(tmp_path_factory, small):
    """What two steps saved, step by step."""
    folder = tmp_path_factory.mktemp("lora")
    write(folder / "data", train=8, val=2)
    subprocess.run(
        [
            *(REPOSITORY / "examples/tiny_r1v/launch/train.sh", "--profile", "quickstart"),
            *("--algorithm", "lipo", "--expert", "math"),
            *("--data", folder / "data", "--output", folder / "run", "--", *small, *SETTINGS),
        ],
        env=os.environ | {"PYTHON": sys.executable},
        check=True,
    )
    return [folder / "run/checkpoints" / f"global_step_{step}" / "actor" for step in (1, 2)]


def with_peft(actor, folder):
    """The expert's weights, as peft puts its adapter into transformers' model."""
    torch_extensions.install()  # for torchvision, which transformers imports
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32)
    settings = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear")
    model = get_peft_model(model, settings)
    trained = torch.load(actor / "model_world_size_1_rank_0.pt", weights_only=False)
    whole = {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in trained.items()}
    model.load_state_dict(whole, strict=True)
    model.merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_an_expert_of_adapters_is_what_peft_makes_of_it(actors, tmp_path):
    amm.merge(BASE, [actors[1]], method="mean", output=tmp_path / "merged", save_dtype="float32")
    merged, expected = (
        load_file(tmp_path / "merged/model.safetensors"),
        with_peft(actors[1], tmp_path / "peft"),
    )
    assert merged.keys() <= expected.keys() | {"lm_head.weight"}
    for name in merged.keys() & expected.keys():
        torch.testing.assert_close(merged[name], expected[name], rtol=1e-5, atol=1e-6)


def test_experts_of_adapters_are_merged_by_amm(actors, tmp_path):
    amm.merge(BASE, actors, method="amm", output=tmp_path / "merged", parameters={"steps": 10})
    merged, base = (load_file(p / "model.safetensors") for p in (tmp_path / "merged", BASE))
    moved = {name for name in base if not torch.equal(merged[name], base[name])}
    assert moved and all("proj" in name or "mlp" in name or "qkv" in name for name in moved)

"""Folders of other tools are named, with what to run."""

import json
import re

import pytest
import torch
from pico_models import save_folder

from amm.checkpoints import open_checkpoint
from amm.errors import InputError

ZERO = "DeepSpeed: run `python zero_to_fp32.py"
MEGATRON = "verl's Megatron backend.*`python -m verl.model_merger merge --backend megatron"
SHARDED = "torch.distributed.checkpoint .*accelerate merge-weights"


@pytest.mark.parametrize(
    ("file", "given", "said"),
    [
        ("global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt", "", ZERO),
        ("global_step9/zero_pp_rank_0_mp_rank_00_model_states.pt", "global_step9", ZERO),
        ("global_step9/mp_rank_00_model_states.pt", "", ZERO),
        ("pytorch_model_fsdp_0/__0_0.distcp", "", SHARDED),
        ("pytorch_model_fsdp_0/__0_0.distcp", "pytorch_model_fsdp_0", SHARDED),
        ("actor/dist_ckpt/__0_0.distcp", "", MEGATRON),
        ("actor/model/dist_ckpt/__0_0.distcp", "", MEGATRON),
        ("actor/model/dist_ckpt/__0_0.distcp", "actor/model/dist_ckpt", MEGATRON),
        ("mp_rank_00/model_optim_rng.pt", "", "Megatron-LM: export"),
        ("pytorch_lora_weights.safetensors", "", "diffusers: fuse it .*fuse_lora"),
        ("adapters.safetensors", "", "MLX-LM: run `mlx_lm.fuse`"),
        ("adapter_model.safetensors", "", "without its adapter_config.json; copy that too"),
        ("model-Q4.gguf", "", "GGUF isn't read"),
        ("consolidated.00.pth", "", "Mistral or Meta"),
        ("tf_model.h5", "", "TensorFlow or Flax"),
        ("my-lora.safetensors", "", "of another name: .* model.safetensors"),
        ("notes.txt", "", "It has notes.txt"),
    ],
)
def test_what_a_folder_is_and_what_to_run_is_said(tmp_path, file, given, said):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(InputError, match=f"no weights in {re.escape(str(tmp_path))}.*{said}"):
        open_checkpoint(tmp_path / given)


@pytest.mark.parametrize("given", ["", "actor"])
def test_what_verls_megatron_backend_exports_is_read(tmp_path, given):
    weights = {"w": torch.arange(2.0)}
    folder = save_folder(tmp_path / "actor" / "model" / "huggingface", weights)
    (tmp_path / "actor" / "model" / "dist_ckpt").mkdir()
    opened = open_checkpoint(tmp_path / given)
    assert opened.path == folder and torch.equal(opened.read("w"), weights["w"])


def test_a_base_beside_which_an_adapter_was_trained_is_not_taken_for_the_expert(tmp_path):
    folder = save_folder(tmp_path / "actor" / "model" / "huggingface", {"w": torch.ones(2)})
    manifest = {"contents": {"peft_adapters": {"path": "model/dist_ckpt"}}}
    (tmp_path / "actor" / "ckpt_contents.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="has the base's weights, and the adapter .*dist_ckpt"):
        open_checkpoint(tmp_path)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    (folder / "adapter" / "adapter_model.safetensors").touch()
    for given in (tmp_path, folder):
        with pytest.raises(InputError, match="in adapter/ a LoRA adapter.*give .*adapter for"):
            open_checkpoint(given)


@pytest.mark.parametrize("place", ["actor/huggingface", "huggingface", "checkpoint-10"])
def test_weights_further_down_are_pointed_at(tmp_path, place):
    save_folder(tmp_path / place, {"w": torch.ones(2)})
    (tmp_path / "dist_ckpt").mkdir()
    with pytest.raises(InputError, match=f"There are some in {place}; give that folder"):
        open_checkpoint(tmp_path)

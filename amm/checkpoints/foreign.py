"""Folders of other tools, which aren't read: what they are, and what makes one of them that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_TOOLS = (
    (
        ("*zero_pp_rank_*", "mp_rank_*_model_states.pt"),
        "It is a checkpoint of DeepSpeed: run `python zero_to_fp32.py . OUTPUT"
        " --safe_serialization` in the folder that has zero_to_fp32.py (or"
        " `python -m deepspeed.utils.zero_to_fp32`), and give the result.",
    ),
    (
        ("dist_ckpt",),
        "It is a checkpoint of verl's Megatron backend; convert it with"
        " `python -m verl.model_merger merge --backend megatron --local_dir …/actor --target_dir"
        " OUTPUT`, and give the result.",
    ),
    (
        ("*.distcp", "pytorch_model_fsdp_*/*"),
        "It is a sharded checkpoint of torch.distributed.checkpoint (FSDP): run `accelerate"
        " merge-weights FOLDER OUTPUT` on the folder of the .distcp files, or"
        " `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER"
        " pytorch_model.bin`, and give the result.",
    ),
    (
        ("mp_rank_*/*", "iter_*/*", "model_optim_rng.pt"),
        "It is a checkpoint of Megatron-LM: export it to Hugging Face's format with Megatron Bridge"
        " or the tool that trained it, and give the result.",
    ),
    (
        ("pytorch_lora_weights.*",),
        "It is a LoRA of diffusers: fuse it with the pipeline's fuse_lora(), save the model, and"
        " give the result.",
    ),
    (
        ("adapters.safetensors", "adapters.npz"),
        "It is an adapter of MLX-LM: run `mlx_lm.fuse`, and give the result.",
    ),
    (
        ("adapter_model.*",),
        "It is an adapter without its adapter_config.json; copy that too.",
    ),
    (
        ("*.gguf",),
        "GGUF isn't read: it is made from a Hugging Face folder; give that.",
    ),
    (
        ("*.nemo", "model_weights/*"),
        "It is a checkpoint of NeMo: export it to Hugging Face's format with NeMo's export or"
        " Megatron Bridge, and give the result.",
    ),
    (
        ("consolidated*",),
        "It has weights in the naming of Mistral or Meta: give the model as transformers saves it,"
        " converted with transformers' convert_…_weights_to_hf.py.",
    ),
    (
        ("lit_model.pth*",),
        "It is a checkpoint of LitGPT: run `litgpt convert_from_litgpt`, and give the result.",
    ),
    (
        ("tf_model*.h5", "flax_model*.msgpack"),
        "It has weights of TensorFlow or Flax: load them with a transformers below 5 (from_tf or"
        " from_flax), save_pretrained(), and give the result.",
    ),
    (
        ("*.ckpt",),
        "It has a .ckpt file, as Lightning saves: load it with the code that wrote it,"
        " save_pretrained(), and give the result.",
    ),
    (
        ("*.safetensors",),
        "It has a .safetensors file of another name: if that is a whole model, call it"
        " model.safetensors; if it is a LoRA (of kohya's scripts, say), merge it with the tool that"
        " made it, and give the result.",
    ),
)
"""What is in a folder of another tool → what it is and what to do; the first that fits counts."""


def known_format(folder: Path) -> str | None:
    """What a folder without weights that are read is, and what to do; None if that isn't known."""
    places = list(_places(folder))
    if folder.name == "dist_ckpt":
        places.insert(0, folder.parent)
    for patterns, sentence in _TOOLS:
        if any(next(place.glob(pattern), None) for place in places for pattern in patterns):
            return sentence
    return None


def _places(folder: Path) -> Iterator[Path]:
    """The folder and those in it, two deep, in which a training run nests its checkpoint."""
    yield folder
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.is_symlink():
            yield child
            yield from sorted(c for c in child.iterdir() if c.is_dir() and not c.is_symlink())

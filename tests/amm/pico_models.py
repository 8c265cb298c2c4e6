"""Pico checkpoints for the tests: folders with random weights, and ranks that save shards."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

OTHER_FILES = {
    "config.json": b'{"model_type": "qwen2",  "tie_word_embeddings": true}\n',
    "generation_config.json": b'{"eos_token_id": [1, 2]}',
    "tokenizer.json": bytes(range(256)),
    "chat_template.jinja": b"{% for m in messages %}{{ m }}\r\n{% endfor %}",
    "preprocessor_config.json": b"{ }",
    "extra/notes.txt": b"kept\n",
}
"""Files of a pico folder other than weights, with bytes that no JSON writer would produce."""

SHAPES = {
    "model.embed_tokens.weight": (40, 16),
    "model.layers.0.input_layernorm.weight": (16,),
    "model.layers.0.self_attn.q_proj.weight": (16, 16),
    "model.layers.0.self_attn.q_proj.bias": (16,),
    "model.layers.0.mlp.up_proj.weight": (24, 16),
    "model.layers.0.mlp.down_proj.weight": (8, 48),
    "model.norm.weight": (16,),
    "visual.patch_embed.proj.weight": (16, 3, 2, 4, 4),
}
"""A pico model: every kind of tensor that the rules tell apart, and both shapes of a layer."""


def pico_weights(seed: int, rms: float = 1.0) -> dict[str, torch.Tensor]:
    """Random float32 weights of the pico model."""
    generator = torch.Generator().manual_seed(seed)
    return {k: rms * torch.randn(shape, generator=generator) for k, shape in SHAPES.items()}


def save_folder(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """A Hugging Face folder with one safetensors file and the other files."""
    folder.mkdir(parents=True)
    for name, content in OTHER_FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load_folder(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a Hugging Face folder, by the safetensors library."""
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    return weights


HEAD = """
import os, pathlib, sys, torch, torch.distributed as dist
torch.set_num_threads(1)
sys.modules["torchvision"] = None
"""
"""Models need no torchvision, and one that was built for another torch fails at import."""

RANKS = """
def start(world, folder):
    folder.mkdir(parents=True, exist_ok=True)
    ranks = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            where = f"file://{folder}/rendezvous"
            dist.init_process_group("gloo", init_method=where, rank=rank, world_size=world)
            work(rank, world, folder)
            dist.barrier()
            dist.destroy_process_group()
            os._exit(0)
        ranks.append(child)
    assert not any([os.waitpid(child, 0)[1] for child in ranks])

for world, folder in zip(sys.argv[1::2], sys.argv[2::2]):
    start(int(world), pathlib.Path(folder))
"""


def run_ranks(imports: str, work: str, folders: dict[int, Path]) -> None:
    """Run code on every rank of gloo process groups, in forks of one interpreter.

    Args:
        imports: import statements, run once.
        work: the body of `work(rank, world, folder)`.
        folders: world size → folder.
    """
    body = "def work(rank, world, folder):\n" + textwrap.indent(textwrap.dedent(work), "    ")
    arguments = [part for world, folder in folders.items() for part in (world, folder)]
    run_python(textwrap.dedent(imports) + body + RANKS, *arguments)


def run_python(source: str, *arguments: object) -> str:
    """Run Python source after `HEAD` in a process of its own; its standard output."""
    command = [sys.executable, "-c", HEAD + source, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout

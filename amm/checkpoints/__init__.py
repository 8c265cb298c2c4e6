"""Readers of checkpoints behind one interface, and the writer of the merged one."""

from __future__ import annotations

from pathlib import Path

from amm.checkpoints.base import Checkpoint, missing_weights
from amm.checkpoints.fsdp import FsdpCheckpoint, find_rank_folder
from amm.checkpoints.hf import HfCheckpoint, has_safetensors
from amm.errors import InputError

__all__ = ["Checkpoint", "FsdpCheckpoint", "HfCheckpoint", "open_checkpoint"]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a Hugging Face folder, or the FSDP shards of verl or EasyR1, by what is in the folder.

    Args:
        path: a folder with `model.safetensors` or an index; or `global_step_N`,
            `global_step_N/actor`, or the folder of `model_world_size_W_rank_R.pt` itself.

    Raises:
        InputError: neither is there, or what is there is incomplete or damaged.
    """
    folder = Path(path)
    if has_safetensors(folder):
        return HfCheckpoint(folder)
    rank_folder = find_rank_folder(folder)
    if rank_folder is not None:
        return FsdpCheckpoint(rank_folder)
    looked_for = (
        "model.safetensors, model.safetensors.index.json, or model_world_size_W_rank_R.pt"
        " (there or in actor/)"
    )
    raise InputError(missing_weights(folder, looked_for))

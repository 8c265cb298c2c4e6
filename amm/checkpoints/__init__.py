"""Readers of checkpoints behind one interface, and the writer of the merged one."""

from __future__ import annotations

import re
from pathlib import Path

from amm.checkpoints.base import Checkpoint
from amm.checkpoints.files import is_there, read_json, read_small
from amm.checkpoints.foreign import known_format
from amm.checkpoints.fsdp import FsdpCheckpoint, find_rank_folder
from amm.checkpoints.hf import HfCheckpoint, has_weights
from amm.checkpoints.hub import local_folder
from amm.checkpoints.lora import LoraCheckpoint, is_adapter, open_adapter, with_adapter
from amm.checkpoints.moe import laid_out
from amm.checkpoints.quantised import check_not_quantised
from amm.errors import InputError

__all__ = ["Checkpoint", "FsdpCheckpoint", "HfCheckpoint", "LoraCheckpoint", "open_checkpoint"]

_STEP = re.compile(r"global_step_([0-9]{1,18})")
_TRACKERS = {
    "latest_checkpointed_iteration.txt": re.compile(r"\s*([0-9]{1,18})\s*"),
    "checkpoint_tracker.json": re.compile(r'(?s).*"last_global_step":\s*([0-9]{1,18}).*'),
}
"""verl's and EasyR1's note of the last step, and where the number is in it."""
_TRACKER_LIMIT = 10_000


def open_checkpoint(path: str | Path, base: Checkpoint | None = None) -> Checkpoint:
    """Open a model by what is in the folder, mapped into memory; no code of its files runs.

    Args:
        path: a Hugging Face folder (safetensors or .bin); a PEFT LoRA adapter; `global_step_N`,
            `global_step_N/actor`, or the folder of `model_world_size_W_rank_R.pt` itself, of verl
            or EasyR1, with or without LoRA; the same of verl's Megatron backend, where it exported
            Hugging Face weights; or, where there is no such path, a model of the Hugging
            Face Hub, `org/name` or `org/name@revision`.
        base: the model that LoRA adapters were trained on, and whose layout of a mixture of experts
            is given to the opened one's.

    Raises:
        InputError: nothing of the kind is there, or what is there is incomplete or damaged.
    """
    folder = local_folder(path)
    try:
        checkpoint = _open(folder, base)
    except OSError as error:
        raise InputError(f"{folder} can't be read ({error.strerror}); check its rights.") from None
    if not any(0 not in checkpoint.shape(key) for key in checkpoint.keys()):
        raise InputError(f"{folder} holds no weights: its files have no entries; copy it again.")
    return checkpoint


def _open(folder: Path, base: Checkpoint | None) -> Checkpoint:
    if is_adapter(folder):
        if has_weights(folder):
            raise InputError(
                f"{folder} holds both a model and a LoRA adapter; move one of them into a folder of"
                " its own."
            )
        return open_adapter(folder, base)
    opened: Checkpoint
    if has_weights(folder):
        opened = _model(folder)
    elif (rank_folder := find_rank_folder(folder)) is not None:
        opened = with_adapter(FsdpCheckpoint(rank_folder), base)
    elif (exported := _of_megatron(folder)) is not None:
        opened = _model(exported)
    else:
        raise InputError(_missing_weights(folder))
    return opened if base is None else laid_out(opened, base)


def _model(folder: Path) -> HfCheckpoint:
    if is_adapter(folder / "adapter"):
        raise InputError(
            f"{folder} holds a model, and in adapter/ a LoRA adapter to it, as verl's Megatron"
            f" backend exports them; give {folder / 'adapter'} for the two together, or move that"
            " away."
        )
    opened = HfCheckpoint(folder)
    check_not_quantised(opened)
    return opened


def _of_megatron(folder: Path) -> Path | None:
    """The weights that verl's Megatron backend, from 0.9 on, exports beside its shards.

    Raises:
        InputError: they are those of the base alone, as an adapter was trained.
    """
    for actor in (folder, folder / "actor"):
        exported = actor / "model" / "huggingface"
        if not has_weights(exported):
            continue
        manifest = actor / "ckpt_contents.json"
        said = read_json(manifest, "verl's list of contents") if is_there(manifest) else {}
        adapters = isinstance(said.get("contents"), dict) and "peft_adapters" in said["contents"]
        if adapters and not is_adapter(exported / "adapter"):
            raise InputError(
                f"{exported} has the base's weights, and the adapter that was trained is in"
                f" Megatron's shards in {actor / 'model' / 'dist_ckpt'}; export it with verl's"
                " model_merger and give the result."
            )
        return exported
    return None


def _missing_weights(path: Path) -> str:
    """The message for a folder without readable weights: what is there instead, what to do."""
    if not path.exists():
        return f"{path} doesn't exist; check the path."
    if not path.is_dir():
        return f"{path} is a file; give the folder that the weights are in."
    names = sorted(child.name for child in path.iterdir())
    steps = sorted(int(match[1]) for match in map(_STEP.fullmatch, names) if match)
    nested = ("huggingface", "lora_adapter")
    elsewhere = [
        name
        for name in dict.fromkeys((*nested, *(f"actor/{n}" for n in nested), *names))
        if has_weights(path / name) or is_adapter(path / name)
    ]
    if steps:
        last = _last_step(path)
        listed = (f"global_step_{n}{' (the last one)' if n == last else ''}" for n in steps)
        advice = f"Give one of its steps: {', '.join(listed)}."
    elif elsewhere:
        which = "that folder" if len(elsewhere) == 1 else "one of these folders"
        advice = f"There are some in {', '.join(elsewhere[:10])}; give {which}."
    else:
        shown = ", ".join(names[:10]) or "nothing"
        advice = f"It has {shown}{' …' if len(names) > 10 else ''}."
        advice = known_format(path) or advice
    return (
        f"no weights in {path}: looked for model.safetensors, pytorch_model.bin, their .index.json,"
        " adapter_config.json, and model_world_size_W_rank_R.pt (there or in actor/)."
        f" {advice}"
    )


def _last_step(folder: Path) -> int | None:
    for name, number in _TRACKERS.items():
        if is_there(folder / name):
            try:
                text = read_small(folder / name, "a note of the last step", _TRACKER_LIMIT)
            except InputError:
                return None
            found = number.fullmatch(text.decode(errors="replace"))
            return int(found[1]) if found else None
    return None

"""What a merged model takes over from a model's folder beside the weights, and what it doesn't.

Left out are the weights that the merged ones replace, the same weights in other formats, and what
training leaves for itself. All else belongs to the model and is copied, code and pickles too, which
nothing here runs or opens. Of config.json the dtype alone is changed, to what the weights are.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from amm.checkpoints.base import Checkpoint, dtype_name
from amm.checkpoints.hf import weight_files
from amm.checkpoints.keys import MERGEABLE
from amm.errors import InputError
from amm.text import listed

CONFIG_FILE = "config.json"

OTHER_FORMATS = (
    "pytorch_model*.bin",
    "pytorch_model*.bin.index.json",
    "tf_model*.h5",
    "flax_model*.msgpack",
    "rust_model*.ot",
    "consolidated*",
    "*/consolidated*",
    "*.gguf",
    "*.nemo",
    "*.tflite",
    "model*.onnx*",
    "openvino_model*",
    *(f"{folder}/*" for folder in ("coreml", "metal", "onnx", "openvino", "original")),
)
"""A model's own weights as others than transformers take them; not downloaded from the Hub."""

TRAINING_FILES = (
    "optimizer*.pt",
    "optimizer*.bin",
    "scheduler*.pt",
    "scheduler*.bin",
    "scaler.pt",
    "rng_state*.pth",
    "random_states_*.pkl",
    "trainer_state.json",
    "training_args.bin",
    "*_world_size_*_rank_*.pt",
    "*mp_rank_*_states.pt",
    "zero_to_fp32.py",
    "latest",
    "*.distcp",
    "*events.out.tfevents*",
    "*__pycache__/*",
    "wandb/*",
    "checkpoint-*/*",
    "global_step*/*",
    "optimizer_[0-9]*/*",
    "pytorch_model_fsdp_*/*",
)
"""What a training run leaves beside a model; not downloaded from the Hub either."""

_OWN_WEIGHTS = ("model-*-of-*.safetensors", "model.*safetensors*", "*.masks")
_CODE = {".py", ".so", ".pyd", ".dll", ".dylib", ".sh", ".exe", ".jar", ".pkl", ".pickle"}
_WEIGHTS = {".safetensors", ".npy", ".npz", ".h5", ".msgpack", ".onnx"}
_PICKLED_WEIGHTS = {".bin", ".pt", ".pth", ".ckpt"}
_FLOATS = {dtype_name(dtype): dtype for dtype in MERGEABLE}
_DTYPE = re.compile(rb'("(?:torch_)?dtype"\s*:\s*")(%s)(?=")' % "|".join(_FLOATS).encode())


@dataclass(frozen=True)
class OtherFiles:
    """The files of a donor, hidden ones apart, as paths relative to it.

    Attributes:
        copied: what goes into the merged model.
        left_out: what doesn't, the replaced weights apart.
    """

    copied: list[str]
    left_out: list[str]

    def warnings(self, donor: Path) -> Iterator[str]:
        """What a user should know of the files that are copied; sentences."""
        weights = self._of(_WEIGHTS | _PICKLED_WEIGHTS)
        if weights:
            yield f"copied from {donor} as they are, not merged: {listed(weights)}."
        code = self._of(_CODE | _PICKLED_WEIGHTS)
        if code:
            yield (
                f"copied from {donor}, never run here, and able to run code where they are loaded:"
                f" {listed(code)}; read them, or trust where they are from."
            )

    def _of(self, suffixes: set[str]) -> list[str]:
        return [name for name in self.copied if Path(name).suffix.lower() in suffixes]


def donor_folder(named: Path | None, base: Checkpoint) -> Path | None:
    """Where the other files are from: a folder that was named, or the base's; None without one.

    Raises:
        InputError: what was named isn't a folder.
    """
    if named is not None and not named.is_dir():
        raise InputError(f"copy_files_from: {named} isn't a folder; give one, or leave it out.")
    return named or base.files_folder


def other_files(donor: Path) -> OtherFiles:
    """Sort out the files of a folder that aren't the weights that a merge replaces.

    Hidden files and folders are in neither list.
    """
    files = OtherFiles([], [])
    weights = weight_files(donor)
    for folder, subfolders, names in os.walk(donor):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        links = [Path(folder, name) for name in subfolders if Path(folder, name).is_symlink()]
        files.left_out.extend(link.relative_to(donor).as_posix() for link in links)
        for name in sorted(names):
            path = Path(folder, name).relative_to(donor).as_posix()
            if name.startswith(".") or path in weights:
                continue
            out = any(fnmatchcase(path, p) for p in (*OTHER_FORMATS, *TRAINING_FILES))
            own = any(fnmatchcase(path, p) for p in _OWN_WEIGHTS)
            (files.left_out if out or own else files.copied).append(path)
    return files


def same_files(one: Path, other: Path) -> bool:
    """Whether two ordinary files have the same bytes."""
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def main_dtype(tensors: Iterable[tuple[torch.dtype, int]]) -> torch.dtype | None:
    """The floating dtype that most entries have, of pairs of dtype and entries."""
    entries: dict[torch.dtype, int] = {}
    for dtype, size in tensors:
        if dtype in MERGEABLE:
            entries[dtype] = entries.get(dtype, 0) + size
    return max(entries, key=entries.__getitem__) if entries else None


def holds(said: str, stored: torch.dtype) -> bool:
    """Whether a dtype, as config.json names it, keeps every value of another."""
    return torch.promote_types(_FLOATS[said], stored) == _FLOATS[said]


def with_dtype(config: bytes, stored: torch.dtype, *, wanted: bool) -> bytes:
    """A config.json whose dtypes, nested ones too, are those of the weights; else byte for byte.

    Loaders go by them: weights of float32 that it calls bfloat16 are rounded.

    Args:
        config: the donor's.
        stored: dtype of the merged weights.
        wanted: whether the merge was asked for it; if not, a dtype that holds it stays.
    """
    name = dtype_name(stored).encode()

    def replaced(found: re.Match[bytes]) -> bytes:
        stays = not wanted and holds(found[2].decode(), stored)
        return found[0] if stays else found[1] + name

    return _DTYPE.sub(replaced, config)


def same_but_dtypes(one: bytes, other: bytes) -> bool:
    """Whether two config.json differ in nothing but what `with_dtype` changes."""
    return _DTYPE.sub(rb"\1", one) == _DTYPE.sub(rb"\1", other)


def dtypes_of(config: dict[str, Any]) -> dict[str, str]:
    """The floating dtypes that a parsed config.json names: path of the key → dtype."""
    found, left = {}, [("", config)]
    while left:
        path, section = left.pop()
        for key, value in section.items():
            if key in ("dtype", "torch_dtype") and isinstance(value, str) and value in _FLOATS:
                found[path + key] = value
            if isinstance(value, dict):
                left.append((f"{path}{key}.", value))
    return found
